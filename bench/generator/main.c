/* A load generator for message brokers. Prints one line of JSON; see USAGE. */

#include "generator.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

static const char USAGE[] =
    "load send    --dialect D --address H:P --topic T --count C [--connections N] [--in-flight K]\n"
    "             [--body-bytes B] [--batch M] [--queues Q] [--topics N] [--warm W]\n"
    "load drain   --dialect D --address H:P --topic T --count C [--queues Q]\n"
    "load e2e     --dialect D --address H:P --topic T [--rate R] [--seconds S] [--body-bytes B]\n"
    "             [--groups G] [--queues Q] [--warm W]\n"
    "load gap     --dialect D --address H:P,H:P,H:P --topic T [--in-flight K] [--seconds S]\n"
    "load prepare --dialect D --address H:P --topic T [--topics N] [--groups G]\n"
    "\n"
    "D is remoting (RocketMQ), amqp (RabbitMQ) or nats (JetStream). All: [--timeout S] without any\n"
    "answer, after which the run fails, [--replicas R] of a stream, [--addresses NAME=H:P,…] to\n"
    "find the server that leads a stream. Several topics are T-0, T-1, …: RocketMQ's topics, AMQP's\n"
    "queues, and in NATS subjects T.0, T.1, … of one stream. RocketMQ's are made by a first message\n"
    "each, before the clock starts. Where there are no batches (amqp, nats), a batch is one message\n"
    "as large as all of it. Latencies are those of requests; in e2e from when a message was due to\n"
    "its arrival at each group; in drain those of fetches.\n";

static const struct dialect *const DIALECTS[] = {&remoting, &amqp, &nats};

static const struct {
    const char *name;
    void (*run)(const struct options *o);
} LOADS[] = {
    {"send", load_send},
    {"drain", load_drain},
    {"e2e", load_e2e},
    {"gap", load_gap},
    {"prepare", load_prepare},
};

_Noreturn void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static double number(const char *name, const char *text, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        die("--%s %s: a number from %g to %g", name, text, least, most);
    return value;
}

static double whole(const char *name, const char *text, double least, double most) {
    double value = number(name, text, least, most);
    if (value != floor(value))
        die("--%s %s: a whole number", name, text);
    return value;
}

static unsigned split(const char *name, char *text, const char **into) {
    unsigned count = 0;
    for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
        if (count == ADDRESSES_MAX)
            die("--%s: at most %d", name, ADDRESSES_MAX);
        into[count++] = word;
    }
    return count;
}

/* Names go into JSON, NATS subjects and topic names: what all of them allow. */
static const char *plain(const char *text) {
    size_t length = strspn(
        text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    if (length == 0 || text[length] || length > 100)
        die("--topic %s: 1 to 100 letters, digits, _ and -", text);
    return text;
}

static const struct dialect *dialect_of(const char *name) {
    for (size_t place = 0; place < sizeof DIALECTS / sizeof *DIALECTS; place++)
        if (strcmp(DIALECTS[place]->name, name) == 0)
            return DIALECTS[place];
    die("--dialect %s: there are remoting, amqp and nats", name);
}

enum {
    DIALECT, ADDRESS, ADDRESSES, TOPIC, CONNECTIONS, IN_FLIGHT, BATCH, QUEUES, TOPICS, GROUPS,
    REPLICAS, COUNT, WARM, BODY_BYTES, RATE, SECONDS, TIMEOUT,
};

static const struct option NAMES[] = {
    {"dialect", 1, NULL, DIALECT},         {"address", 1, NULL, ADDRESS},
    {"addresses", 1, NULL, ADDRESSES},     {"topic", 1, NULL, TOPIC},
    {"connections", 1, NULL, CONNECTIONS}, {"in-flight", 1, NULL, IN_FLIGHT},
    {"batch", 1, NULL, BATCH},             {"queues", 1, NULL, QUEUES},
    {"topics", 1, NULL, TOPICS},           {"groups", 1, NULL, GROUPS},
    {"replicas", 1, NULL, REPLICAS},       {"count", 1, NULL, COUNT},
    {"warm", 1, NULL, WARM},               {"body-bytes", 1, NULL, BODY_BYTES},
    {"rate", 1, NULL, RATE},               {"seconds", 1, NULL, SECONDS},
    {"timeout", 1, NULL, TIMEOUT},         {NULL, 0, NULL, 0},
};

static void set(struct options *o, int option, const char *name, char *text) {
    switch (option) {
    case DIALECT: o->dialect = dialect_of(text); break;
    case ADDRESS: o->address_count = split(name, text, o->addresses); break;
    case ADDRESSES: o->named_count = split(name, text, o->named); break;
    case TOPIC: o->topic = plain(text); break;
    case CONNECTIONS: o->connections = (unsigned)whole(name, text, 1, CONNECTIONS_MAX); break;
    case IN_FLIGHT: o->in_flight = (unsigned)whole(name, text, 1, IN_FLIGHT_MAX); break;
    case BATCH: o->batch = (unsigned)whole(name, text, 1, BATCH_MAX); break;
    case QUEUES: o->queues = (unsigned)whole(name, text, 1, QUEUES_MAX); break;
    case TOPICS: o->topics = (unsigned)whole(name, text, 1, TOPICS_MAX); break;
    case GROUPS: o->groups = (unsigned)whole(name, text, 1, GROUPS_MAX); break;
    case REPLICAS: o->replicas = (unsigned)whole(name, text, 1, 9); break;
    case COUNT: o->count = (uint64_t)whole(name, text, 1, 1e12); break;
    case WARM: o->warm = (uint64_t)whole(name, text, 0, 1e12); break;
    case BODY_BYTES: o->body_bytes = (size_t)whole(name, text, 1, BODY_BYTES_MAX); break;
    case RATE: o->rate = number(name, text, 1, 1e7); break;
    case SECONDS: o->seconds = number(name, text, 0.001, 1e6); break;
    case TIMEOUT: o->timeout_s = number(name, text, 0.1, 1e5); break;
    default: die("see load --help");
    }
}

static void check(const struct options *o) {
    bool counts = strcmp(o->load, "send") == 0 || strcmp(o->load, "drain") == 0;
    if (!o->dialect || !o->address_count || !o->topic || (counts && !o->count))
        die("--dialect, --address, --topic%s are needed", counts ? " and --count" : "");
    if (strcmp(o->load, "e2e") == 0 && o->body_bytes < STAMP_BYTES)
        die("--body-bytes %zu: at least %d, for the time in it", o->body_bytes, STAMP_BYTES);
    if (strcmp(o->load, "send") != 0 && o->batch != 1)
        die("--batch: batches are sent by `load send` only");
}

void topic_name(char *into, size_t size, const struct options *o, unsigned place) {
    if (o->topics == 1)
        snprintf(into, size, "%s", o->topic);
    else
        snprintf(into, size, "%s-%u", o->topic, place);
}

int main(int count, char **words) {
    struct options o = {
        .load = count > 1 ? words[1] : "",
        .connections = 1, .in_flight = 64, .batch = 1, .queues = 4, .topics = 1, .groups = 1,
        .replicas = 3, .body_bytes = 1024, .rate = 500, .seconds = 10, .timeout_s = 60,
    };
    if (strcmp(o.load, "--help") == 0) {
        fputs(USAGE, stdout);
        return 0;
    }
    optind = 2;
    if (strcmp(o.load, "gap") == 0)
        o.in_flight = 16;
    for (int option, place; (option = getopt_long(count, words, "", NAMES, &place)) != -1;)
        set(&o, option, option == '?' ? "" : NAMES[place].name, optarg);
    if (optind < count)
        die("%s: see load --help", words[optind]);
    /* The kernel delays timers by 50 µs to save power: a tenth of what is measured here. */
    prctl(PR_SET_TIMERSLACK, 1ul);
    for (size_t place = 0; place < sizeof LOADS / sizeof *LOADS; place++)
        if (strcmp(LOADS[place].name, o.load) == 0) {
            check(&o);
            LOADS[place].run(&o);
            return 0;
        }
    fputs(USAGE, stderr);
    return 1;
}

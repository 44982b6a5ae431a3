/* RocketMQ's remoting protocol with JSON headers: what ours and Apache's brokers take alike.
 *
 * A frame is made once; per message only the request's id and the message's unique key are
 * written into a copy. Of an answer only code, id and next offset are looked for. */

#include "generator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SEND_MESSAGE_V2 = 310,
    SEND_BATCH_MESSAGE = 320,
    PULL_MESSAGE = 11,
    GET_MAX_OFFSET = 30,
    SUCCESS = 0,
    PULL_NOT_FOUND = 19,
    PULL_RETRY_IMMEDIATELY = 20,
    PULL_OFFSET_MOVED = 21,
    COMMITS_OFFSET = 1,
    MAY_SUSPEND = 2,
    CARRIES_SUBSCRIPTION = 4,
    FRAME_BYTES_MAX = 16 << 20, /* Apache's limit on both sides */
    PULL_MESSAGES = 500,        /* as from NATS; a broker gives less: ours 256 KiB, Apache's 32 */
    SUSPEND_MS = 15000,         /* Java's push consumer */
    VERSION = 479,              /* 5.3.3 */
    CALL_ID = 7,                /* of setup's requests: below all others */
    KEY_BYTES = 32,
    RETRY_NS = 20 * MS,
};

static const int64_t DECLARE_MAX_NS = 5 * S; /* for a broker that has just become leader */

static const char HEADER_END[] = "},\"flag\":0,\"language\":\"OTHER\",\"opaque\":%llu,"
                                 "\"serializeTypeCurrentRPC\":\"JSON\",\"version\":%d}";

struct consumer {
    bool stored;
    unsigned queues;
    char group[NAME_MAX_BYTES], topic[NAME_MAX_BYTES];
    int64_t offsets[QUEUES_MAX], began_ns[QUEUES_MAX];
};

struct answer {
    int64_t code, opaque;
    const uint8_t *header, *body;
    size_t header_size, body_size;
};

/* -- what is published ------------------------------------------------------------------------ */

struct template
{
    struct buffer bytes; /* from the frame's length to the end of its header */
    size_t opaque_at, key_at;
};

static struct {
    struct template *templates; /* one for each queue of each topic */
    unsigned template_count, place;
    struct buffer body;
    unsigned batch;
    size_t item_bytes, item_key_at; /* of a batch's body */
} publisher;

/* The unique key that all clients but Node's give a message: run, connection, place in the batch,
 * request. Not the same twice, lest the broker's index of keys grows long chains. */
static void key_write(uint8_t *key, unsigned connection, unsigned item, uint64_t id) {
    write_digits(key + 14, 4, connection);
    write_digits(key + 18, 4, item);
    write_digits(key + 22, ID_DIGITS, id);
}

static void key_text(char *key) {
    snprintf(key, KEY_BYTES + 1, "%014llX%018d",
             (unsigned long long)clock_ns() & 0xFFFFFFFFFFFFFF, 0);
}

static size_t found_at(const struct buffer *b, const char *text) {
    uint8_t *at = memmem(b->bytes, b->end, text, strlen(text));
    if (!at)
        die("no '%s' in a template", text);
    return (size_t)(at - b->bytes);
}

static void frame_head(struct buffer *out, const struct buffer *header, size_t body_bytes) {
    buffer_u32(out, (uint32_t)(4 + header->end + body_bytes));
    buffer_u32(out, (uint32_t)header->end); /* the highest byte 0: JSON */
    buffer_put(out, header->bytes, header->end);
}

static void send_header(struct buffer *header, const char *topic, unsigned queue, unsigned queues,
                        bool batch, const char *key, unsigned long long opaque) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    buffer_text(header,
                "{\"code\":%d,\"extFields\":{\"a\":\"bench\",\"b\":\"%s\",\"c\":\"TBW102\","
                "\"d\":\"%u\",\"e\":\"%u\",\"f\":\"0\",\"g\":\"%lld\",\"h\":\"0\","
                "\"i\":\"UNIQ_KEY\\u0001%s\\u0002TAGS\\u0001bench\\u0002\",\"j\":\"0\","
                "\"k\":\"false\",\"m\":\"%s\"",
                batch ? SEND_BATCH_MESSAGE : SEND_MESSAGE_V2, topic, queues, queue,
                (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000, key,
                batch ? "true" : "false");
    buffer_text(header, HEADER_END, opaque, VERSION);
}

static void compose_batch_body(const struct options *o, const char *key) {
    char properties[128];
    int size = snprintf(properties, sizeof properties, "UNIQ_KEY\1%s\2TAGS\1bench\2", key);
    for (unsigned item = 0; item < o->batch; item++) {
        size_t start = publisher.body.end;
        buffer_u32(&publisher.body, (uint32_t)(22 + o->body_bytes + (size_t)size));
        buffer_u32(&publisher.body, 0); /* magic */
        buffer_u32(&publisher.body, 0); /* CRC: the broker's */
        buffer_u32(&publisher.body, 0); /* flag */
        buffer_u32(&publisher.body, (uint32_t)o->body_bytes);
        memset(buffer_room(&publisher.body, o->body_bytes), 'x', o->body_bytes);
        publisher.body.end += o->body_bytes;
        buffer_u16(&publisher.body, (uint16_t)size);
        publisher.item_key_at = publisher.body.end - start + strlen("UNIQ_KEY\1");
        buffer_put(&publisher.body, properties, (size_t)size);
        publisher.item_bytes = publisher.body.end - start;
    }
}

static void remoting_compose(const struct options *o) {
    char key[KEY_BYTES + 1], topic[NAME_MAX_BYTES], opaque[ID_DIGITS + 1];
    key_text(key);
    publisher.batch = o->batch;
    if (o->batch > 1) {
        compose_batch_body(o, key);
    } else {
        memset(buffer_room(&publisher.body, o->body_bytes), 'x', o->body_bytes);
        publisher.body.end = o->body_bytes;
    }
    if (publisher.body.end > BODY_BYTES_MAX)
        die("%zu bytes in one request: brokers take at most %d", publisher.body.end,
            BODY_BYTES_MAX);
    publisher.template_count = o->topics * o->queues;
    publisher.templates = calloc(publisher.template_count, sizeof *publisher.templates);
    if (!publisher.templates)
        die("out of memory");
    snprintf(opaque, sizeof opaque, "%u", ID_FIRST);
    for (unsigned place = 0; place < publisher.template_count; place++) {
        struct template *made = &publisher.templates[place];
        struct buffer header = {0};
        topic_name(topic, sizeof topic, o, place % o->topics);
        send_header(&header, topic, place / o->topics, o->queues, o->batch > 1, key, ID_FIRST);
        frame_head(&made->bytes, &header, publisher.body.end);
        made->key_at = found_at(&made->bytes, key);
        made->opaque_at = found_at(&made->bytes, "\"opaque\":") + strlen("\"opaque\":");
        buffer_free(&header);
    }
}

static void remoting_publish(struct connection *c, uint64_t id, const struct stamp *stamp) {
    const struct template *chosen = &publisher.templates[publisher.place];
    if (++publisher.place == publisher.template_count)
        publisher.place = 0;
    size_t head = chosen->bytes.end, size = head + publisher.body.end;
    uint8_t *frame = buffer_room(&c->out, size), *body = frame + head;
    memcpy(frame, chosen->bytes.bytes, head);
    memcpy(body, publisher.body.bytes, publisher.body.end);
    write_digits(frame + chosen->opaque_at, ID_DIGITS, ID_FIRST + id % ID_FIRST);
    key_write(frame + chosen->key_at, c->number, 0, id);
    if (publisher.batch > 1)
        for (unsigned item = 0; item < publisher.batch; item++)
            key_write(body + item * publisher.item_bytes + publisher.item_key_at, c->number, item,
                      id);
    else if (stamp)
        stamp_write(stamp, body);
    c->out.end += size;
}

/* -- answers ---------------------------------------------------------------------------------- */

/* The next complete answer; what it points to holds until the next receive. */
static bool next_answer(struct connection *c, struct answer *a) {
    size_t have = c->in.end - c->in.start;
    const uint8_t *at = c->in.bytes + c->in.start;
    if (have < 8)
        return false;
    size_t length = read_u32(at), kind = read_u32(at + 4);
    if (length > FRAME_BYTES_MAX || length < 4 || kind > length - 4)
        die("%s: not a frame with a JSON header: length %zu, header %zx", c->address, length, kind);
    if (have < length + 4)
        return false;
    *a = (struct answer){.header = at + 8, .header_size = kind, .body = at + 8 + kind};
    a->body_size = length - 4 - kind;
    c->in.start += length + 4;
    if (!json_integer(a->header, kind, "\"code\":", &a->code) ||
        !json_integer(a->header, kind, "\"opaque\":", &a->opaque))
        die("%s: neither code nor opaque in %.*s", c->address, (int)kind, (const char *)a->header);
    return true;
}

static bool is_answer(const struct answer *a) {
    int64_t flag = 0;
    return json_integer(a->header, a->header_size, "\"flag\":", &flag) && flag & 1;
}

static void explain(const struct answer *a, char *why, size_t most) {
    char remark[TROUBLE_MAX / 2];
    json_text(a->header, a->header_size, "\"remark\":", remark, sizeof remark);
    snprintf(why, most, "code %lld: %s", (long long)a->code, remark);
}

static bool call(struct connection *c, const struct buffer *header, const char *body,
                 struct answer *a, int64_t until_ns) {
    frame_head(&c->out, header, strlen(body));
    buffer_put(&c->out, body, strlen(body));
    for (;;) {
        while (next_answer(c, a))
            if (a->opaque == CALL_ID && is_answer(a))
                return true;
        if (!connection_wait(c, until_ns))
            return false;
    }
}

static void each_message(struct connection *c, const struct answer *a) {
    const uint8_t *at = a->body, *end = at + a->body_size;
    while (at < end) {
        size_t left = (size_t)(end - at), size = left < 92 ? 0 : read_u32(at);
        if (size < 92 || size > left)
            die("%s: a pulled record of %zu bytes with %zu left", c->address, size, left);
        uint32_t sys_flag = read_u32(at + 36); /* bits 4 and 5: a host of 16 bytes instead of 4 */
        size_t body_at = 84 + (sys_flag & 16 ? 12 : 0) + (sys_flag & 32 ? 12 : 0);
        size_t body_size = body_at + 4 > size ? size : read_u32(at + body_at);
        if (body_at + 4 + body_size > size)
            die("%s: a body beyond the end of its record", c->address);
        c->listener->arrived(c, at + body_at + 4, body_size);
        at += size;
    }
}

static void pull(struct connection *c, unsigned queue) {
    struct consumer *consumer = c->own;
    int64_t offset = consumer->offsets[queue];
    struct buffer header = {0};
    /* Java's consumers commit with the next pull. Not at 0: there is nothing to commit yet. */
    int flags = MAY_SUSPEND | CARRIES_SUBSCRIPTION | (offset > 0 ? COMMITS_OFFSET : 0);
    buffer_text(&header,
                "{\"code\":%d,\"extFields\":{\"consumerGroup\":\"%s\",\"topic\":\"%s\","
                "\"queueId\":\"%u\",\"queueOffset\":\"%lld\",\"maxMsgNums\":\"%d\","
                "\"sysFlag\":\"%d\",\"commitOffset\":\"%lld\",\"suspendTimeoutMillis\":\"%d\","
                "\"subscription\":\"*\",\"subVersion\":\"0\",\"expressionType\":\"TAG\"",
                PULL_MESSAGE, consumer->group, consumer->topic, queue, (long long)offset,
                PULL_MESSAGES, flags, (long long)offset, SUSPEND_MS);
    buffer_text(&header, HEADER_END, (unsigned long long)ID_FIRST + queue, VERSION);
    frame_head(&c->out, &header, 0);
    buffer_free(&header);
    consumer->began_ns[queue] = turn_ns;
}

static void pulled(struct connection *c, const struct answer *a) {
    struct consumer *consumer = c->own;
    unsigned queue = (unsigned)(a->opaque - ID_FIRST);
    char why[TROUBLE_MAX];
    if (queue >= consumer->queues)
        return;
    switch (a->code) {
    case SUCCESS:
        c->listener->fetched(c, turn_ns - consumer->began_ns[queue]);
        each_message(c, a);
        break;
    case PULL_NOT_FOUND:
    case PULL_RETRY_IMMEDIATELY:
    case PULL_OFFSET_MOVED:
        break;
    default:
        explain(a, why, sizeof why);
        c->listener->refused(c, 0, why);
    }
    json_integer(a->header, a->header_size, "\"nextBeginOffset\":", &consumer->offsets[queue]);
    pull(c, queue);
}

static void remoting_receive(struct connection *c) {
    struct answer a;
    char why[TROUBLE_MAX];
    while (next_answer(c, &a)) {
        if (!is_answer(&a)) /* a broker's own request, such as NOTIFY_CONSUMER_IDS_CHANGED */
            continue;
        if (c->own) {
            pulled(c, &a);
        } else if (a.code == SUCCESS) {
            c->listener->accepted(c, (uint64_t)a.opaque - ID_FIRST);
        } else {
            explain(&a, why, sizeof why);
            c->listener->refused(c, (uint64_t)a.opaque - ID_FIRST, why);
        }
    }
}

/* -- setup ------------------------------------------------------------------------------------ */

static bool remoting_greet(struct connection *c, const struct options *o, int64_t until_ns) {
    (void)c, (void)o, (void)until_ns; /* there is no greeting */
    return true;
}

/* One message for each topic: the first send creates it, by way of the default topic. */
static bool remoting_declare(struct connection *c, const struct options *o) {
    char topic[NAME_MAX_BYTES], key[KEY_BYTES + 1];
    struct answer a;
    int64_t give_up_ns = clock_ns() + DECLARE_MAX_NS;
    for (unsigned number = 0; number < o->topics;) {
        struct buffer header = {0};
        topic_name(topic, sizeof topic, o, number);
        key_text(key);
        send_header(&header, topic, 0, o->queues, false, key, CALL_ID);
        bool answered = call(c, &header, "first", &a, deadline_ns(o));
        buffer_free(&header);
        if (!answered)
            return false;
        if (a.code == SUCCESS) {
            number++;
            give_up_ns = clock_ns() + DECLARE_MAX_NS;
            continue;
        }
        explain(&a, c->trouble, sizeof c->trouble);
        if (clock_ns() > give_up_ns)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    return true;
}

static bool remoting_attach_publisher(struct connection *c, const struct options *o,
                                      int64_t until_ns) {
    (void)c, (void)o, (void)until_ns;
    return true;
}

static bool remoting_attach_consumer(struct connection *c, const struct options *o, int group,
                                     int64_t until_ns) {
    struct consumer *consumer = c->own = calloc(1, sizeof *consumer);
    if (!consumer)
        die("out of memory");
    consumer->queues = o->queues;
    snprintf(consumer->topic, sizeof consumer->topic, "%s", o->topic);
    snprintf(consumer->group, sizeof consumer->group, group < 0 ? "bench-drain" : "bench-group-%d",
             group);
    for (unsigned queue = 0; group >= 0 && queue < o->queues; queue++) {
        struct buffer header = {0};
        struct answer a;
        char why[TROUBLE_MAX];
        buffer_text(&header, "{\"code\":%d,\"extFields\":{\"topic\":\"%s\",\"queueId\":\"%u\"",
                    GET_MAX_OFFSET, o->topic, queue);
        buffer_text(&header, HEADER_END, (unsigned long long)CALL_ID, VERSION);
        bool answered = call(c, &header, "", &a, until_ns);
        buffer_free(&header);
        if (!answered)
            return false;
        if (a.code != SUCCESS || !json_integer(a.header, a.header_size, "\"offset\":",
                                               &consumer->offsets[queue])) {
            explain(&a, why, sizeof why);
            return connection_fail(c, "no end of queue %u: %s", queue, why);
        }
    }
    return true;
}

static void remoting_consume(struct connection *c) {
    struct consumer *consumer = c->own;
    for (unsigned queue = 0; queue < consumer->queues; queue++)
        pull(c, queue);
}

/* What is committed is committed with the next pull: nothing is left to do. */
static bool remoting_finish_consumer(struct connection *c, int64_t until_ns) {
    (void)c, (void)until_ns;
    return true;
}

static void remoting_forget(struct connection *c) { free(c->own); }

const struct dialect remoting = {
    .name = "remoting",
    .leader_only = true,
    .greet = remoting_greet,
    .declare = remoting_declare,
    .attach_publisher = remoting_attach_publisher,
    .attach_consumer = remoting_attach_consumer,
    .compose = remoting_compose,
    .publish = remoting_publish,
    .consume = remoting_consume,
    .receive = remoting_receive,
    .finish_consumer = remoting_finish_consumer,
    .forget = remoting_forget,
};

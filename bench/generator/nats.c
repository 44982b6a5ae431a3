/* The NATS client protocol, with JetStream by its JSON requests: a stream in files, publishes with
 * a reply subject to which the stream's leader sends its acknowledgement, and durable pull
 * consumers that acknowledge all up to a message.
 *
 * Several topics are several subjects of one stream, as a broker of ours keeps all its topics in
 * one log: a stream each would be a Raft group each.
 *
 * Three subscriptions tell what comes in apart: acknowledgements of publishes, whose subject ends
 * in the request's id, answers to setup's requests, and messages. */

#include "generator.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SID_ACKNOWLEDGEMENTS = 1,
    SID_ANSWERS = 2,
    SID_MESSAGES = 3,
    LINE_MAX_BYTES = 4096, /* the server's own limit of a control line */
    PULL_MESSAGES = 500,
    PULLS = 2,             /* asked for ahead, so that no round trip stands between two batches */
    ACK_PENDING_MAX = 10000, /* more than is ever asked for: acknowledging is not to hold it up */
    CONNECTION_DIGITS = 4,
    ANSWER_MAX = 4096,
    RETRY_NS = 100 * MS,
};

/* A request without an answer, as while the cluster has no leader, is made anew. */
static const int64_t CALL_NS = 5 * S;
static const int64_t DECLARE_MAX_NS = 20 * S;

struct session {
    char stream[NAME_MAX_BYTES], consumer[NAME_MAX_BYTES], last_reply[NAME_MAX_BYTES];
    char answer[ANSWER_MAX]; /* the last of setup's, "" if none came yet */
    bool consumes, stored;
    int64_t asked_for;    /* messages that pulls may still bring */
    uint64_t unacknowledged;
    int64_t fetched_ns;
    char leader[NAME_MAX_BYTES];
};

struct message {
    uint64_t sid;
    const char *subject, *reply;
    size_t subject_size, reply_size;
    const uint8_t *headers, *body;
    size_t headers_size, body_size;
};

static struct {
    struct buffer *heads; /* PUB and its subjects, one for each topic */
    size_t *inbox_at;
    unsigned topics, place;
    struct buffer body;
} publisher;

/* Of this process: subscriptions of two must not meet. */
static const char *inbox(void) {
    static char name[64];
    if (!name[0])
        snprintf(name, sizeof name, "_INBOX.%llx%x", (unsigned long long)clock_ns(),
                 (unsigned)getpid());
    return name;
}

/* -- what comes in ---------------------------------------------------------------------------- */

/* The words of a line, at most `most`; the last is cut at the line's end. */
static unsigned words_of(const char *line, const char *end, const char **words, size_t *sizes,
                         unsigned most) {
    unsigned count = 0;
    while (line < end && count < most) {
        while (line < end && (*line == ' ' || *line == '\t'))
            line++;
        if (line == end)
            break;
        const char *start = line;
        while (line < end && *line != ' ' && *line != '\t')
            line++;
        words[count] = start;
        sizes[count++] = (size_t)(line - start);
    }
    return count;
}

static uint64_t number_of(const char *word, size_t size) {
    uint64_t value = 0;
    for (size_t place = 0; place < size && word[place] >= '0' && word[place] <= '9'; place++)
        value = value * 10 + (uint64_t)(word[place] - '0');
    return value;
}

/* MSG subject sid [reply] size, or HMSG subject sid [reply] header-size size. False if it is not
 * all there yet. */
static bool message_of(struct connection *c, const char *line, const char *end, bool with_headers,
                       struct message *m) {
    const char *words[7];
    size_t sizes[7];
    unsigned count = words_of(line, end, words, sizes, 7), fixed = with_headers ? 5 : 4;
    if (count != fixed && count != fixed + 1)
        die("%s: not a message: %.*s", c->address, (int)(end - line), line);
    *m = (struct message){.subject = words[1], .subject_size = sizes[1]};
    m->sid = number_of(words[2], sizes[2]);
    if (count == fixed + 1) {
        m->reply = words[3];
        m->reply_size = sizes[3];
    }
    size_t size = number_of(words[count - 1], sizes[count - 1]);
    m->headers_size = with_headers ? number_of(words[count - 2], sizes[count - 2]) : 0;
    m->headers = (const uint8_t *)end + 2;
    m->body = m->headers + m->headers_size;
    if (size > BODY_BYTES_MAX * 2 || m->headers_size > size)
        die("%s: not a message: %.*s", c->address, (int)(end - line), line);
    m->body_size = size - m->headers_size;
    size_t whole = (size_t)(end - line) + 2 + size + 2;
    if (c->in.end - c->in.start < whole)
        return false;
    c->in.start += whole;
    return true;
}

/* The next message; anything else is answered or remembered on the way. What it points to holds
 * until the next receive. */
static bool next_message(struct connection *c, struct message *m) {
    for (;;) {
        const char *line = (const char *)c->in.bytes + c->in.start;
        size_t have = c->in.end - c->in.start;
        if (have == 0)
            return false;
        const char *end = memmem(line, have < LINE_MAX_BYTES ? have : LINE_MAX_BYTES, "\r\n", 2);
        if (!end) {
            if (have >= LINE_MAX_BYTES)
                die("%s: no end of a line within %d bytes", c->address, LINE_MAX_BYTES);
            return false;
        }
        if (strncmp(line, "MSG ", 4) == 0)
            return message_of(c, line, end, false, m);
        if (strncmp(line, "HMSG ", 5) == 0)
            return message_of(c, line, end, true, m);
        if (strncmp(line, "PING", 4) == 0)
            buffer_put(&c->out, "PONG\r\n", 6);
        else if (strncmp(line, "-ERR", 4) == 0) {
            connection_fail(c, "%.*s", (int)(end - line), line);
            c->lost = true;
            return false;
        } else if (strncmp(line, "PONG", 4) == 0 || strncmp(line, "INFO", 4) == 0) {
            struct session *session = c->own;
            if (line[0] == 'P' && !session->answer[0])
                snprintf(session->answer, sizeof session->answer, "PONG");
        } else if (strncmp(line, "+OK", 3) != 0)
            die("%s: not NATS: %.*s", c->address, (int)(end - line), line);
        c->in.start += (size_t)(end - line) + 2;
    }
}

/* The status of a message that is none, such as 503, or 0. */
static int64_t status_of(const struct message *m) {
    static const char START[] = "NATS/1.0 ";
    if (m->headers_size < sizeof START + 2 || memcmp(m->headers, START, sizeof START - 1) != 0)
        return 0;
    return (int64_t)number_of((const char *)m->headers + sizeof START - 1, 3);
}

/* -- setup ------------------------------------------------------------------------------------ */

static void remember_answer(struct session *session, const struct message *m) {
    if (status_of(m))
        snprintf(session->answer, sizeof session->answer,
                 "{\"error\":{\"code\":%d,\"description\":\"nobody answers\"}}", (int)status_of(m));
    else
        snprintf(session->answer, sizeof session->answer, "%.*s", (int)m->body_size,
                 (const char *)m->body);
}

static bool await_answer(struct connection *c, int64_t until_ns) {
    struct session *session = c->own;
    struct message m;
    for (;;) {
        while (next_message(c, &m))
            if (m.sid == SID_ANSWERS)
                remember_answer(session, &m);
        if (session->answer[0])
            return true;
        if (c->lost || !connection_wait(c, until_ns))
            return false;
    }
}

/* One request of the JetStream API; false as well if it is answered by an error. */
static bool call_once(struct connection *c, const char *subject, const char *request,
                      int64_t until_ns) {
    struct session *session = c->own;
    int64_t by_ns = clock_ns() + CALL_NS;
    session->answer[0] = 0;
    buffer_text(&c->out, "PUB $JS.API.%s %s.%0*u.answer %zu\r\n%s\r\n", subject, inbox(),
                CONNECTION_DIGITS, c->number, strlen(request), request);
    if (!await_answer(c, by_ns < until_ns ? by_ns : until_ns))
        return false;
    char why[TROUBLE_MAX / 2];
    if (!memmem(session->answer, strlen(session->answer), "\"error\":", 8))
        return true;
    json_text((const uint8_t *)session->answer, strlen(session->answer), "\"description\":", why,
              sizeof why);
    return connection_fail(c, "%s: %s", subject, why);
}

/* The same until it succeeds: a stream that has just been made has no leader for a moment. */
static bool call(struct connection *c, const char *subject, const char *request,
                 int64_t until_ns) {
    int64_t give_up_ns = clock_ns() + DECLARE_MAX_NS;
    give_up_ns = give_up_ns < until_ns ? give_up_ns : until_ns;
    while (!call_once(c, subject, request, give_up_ns)) {
        if (c->lost || clock_ns() + RETRY_NS > give_up_ns)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    return true;
}

static bool nats_greet(struct connection *c, const struct options *o, int64_t until_ns) {
    struct session *session = c->own = calloc(1, sizeof *session);
    (void)o;
    if (!session)
        die("out of memory");
    buffer_text(&c->out,
                "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"1\","
                "\"protocol\":1,\"headers\":true,\"no_responders\":true,\"name\":\"load\"}\r\n"
                "SUB %s.%0*u.p.* %d\r\nSUB %s.%0*u.answer %d\r\nSUB %s.%0*u.pulled %d\r\nPING\r\n",
                inbox(), CONNECTION_DIGITS, c->number, SID_ACKNOWLEDGEMENTS, inbox(),
                CONNECTION_DIGITS, c->number, SID_ANSWERS, inbox(), CONNECTION_DIGITS, c->number,
                SID_MESSAGES);
    return await_answer(c, until_ns); /* the PONG: the subscriptions are known by then */
}

static bool nats_declare(struct connection *c, const struct options *o) {
    char subject[NAME_MAX_BYTES], request[NAME_MAX_BYTES * 4];
    snprintf(subject, sizeof subject, "STREAM.CREATE.%s", o->topic);
    snprintf(request, sizeof request,
             "{\"name\":\"%s\",\"subjects\":[\"%s\",\"%s.*\"],\"retention\":\"limits\","
             "\"storage\":\"file\",\"discard\":\"old\",\"num_replicas\":%u,"
             "\"max_consumers\":-1,\"max_msgs\":-1,\"max_bytes\":-1,\"max_age\":0}",
             o->topic, o->topic, o->topic, o->replicas);
    return call(c, subject, request, deadline_ns(o));
}

/* The server that leads the stream, if it was given an address by --addresses. */
static const char *nats_leader(struct connection *c, const struct options *o,
                               int64_t until_ns) {
    struct session *session = c->own;
    char subject[NAME_MAX_BYTES];
    if (o->named_count == 0)
        return NULL;
    snprintf(subject, sizeof subject, "STREAM.INFO.%s", o->topic);
    for (int64_t by_ns = clock_ns() + DECLARE_MAX_NS; clock_ns() < by_ns;) {
        if (!call(c, subject, "", until_ns))
            return NULL;
        json_text((const uint8_t *)session->answer, strlen(session->answer), "\"leader\":",
                  session->leader, sizeof session->leader);
        size_t size = strlen(session->leader);
        for (unsigned place = 0; size > 0 && place < o->named_count; place++)
            if (strncmp(o->named[place], session->leader, size) == 0 &&
                o->named[place][size] == '=')
                return o->named[place] + size + 1;
        if (size > 0)
            die("stream %s is led by %s, which --addresses does not name", o->topic,
                session->leader);
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    return NULL;
}

static bool nats_attach_publisher(struct connection *c, const struct options *o,
                                  int64_t until_ns) {
    (void)c, (void)o, (void)until_ns;
    return true;
}

static bool nats_attach_consumer(struct connection *c, const struct options *o, int group,
                                 int64_t until_ns) {
    struct session *session = c->own;
    char subject[NAME_MAX_BYTES * 3], request[NAME_MAX_BYTES * 4];
    session->consumes = true;
    session->stored = group < 0;
    snprintf(session->stream, sizeof session->stream, "%s", o->topic);
    /* Of this run: where a consumer has been, it would go on. */
    snprintf(session->consumer, sizeof session->consumer, "load-%s-%d", inbox() + 7, group);
    snprintf(subject, sizeof subject, "CONSUMER.DURABLE.CREATE.%s.%s", session->stream,
             session->consumer);
    snprintf(request, sizeof request,
             "{\"stream_name\":\"%s\",\"config\":{\"durable_name\":\"%s\","
             "\"deliver_policy\":\"%s\",\"ack_policy\":\"all\",\"ack_wait\":30000000000,"
             "\"replay_policy\":\"instant\",\"max_ack_pending\":%d}}",
             session->stream, session->consumer, session->stored ? "all" : "new",
             ACK_PENDING_MAX);
    return call(c, subject, request, until_ns);
}

/* -- publishing ------------------------------------------------------------------------------- */

static void nats_compose(const struct options *o) {
    size_t size = o->body_bytes * o->batch;
    publisher.topics = o->topics;
    publisher.heads = calloc(o->topics, sizeof *publisher.heads);
    publisher.inbox_at = calloc(o->topics, sizeof *publisher.inbox_at);
    if (!publisher.heads || !publisher.inbox_at)
        die("out of memory");
    for (unsigned number = 0; number < o->topics; number++) {
        struct buffer *head = &publisher.heads[number];
        if (o->topics == 1)
            buffer_text(head, "PUB %s %s.", o->topic, inbox());
        else
            buffer_text(head, "PUB %s.%u %s.", o->topic, number, inbox());
        publisher.inbox_at[number] = head->end;
        buffer_text(head, "%0*u.p.%0*u %zu\r\n", CONNECTION_DIGITS, 0, ID_DIGITS, 0, size);
    }
    memset(buffer_room(&publisher.body, size + 2), 'x', size);
    memcpy(publisher.body.bytes + size, "\r\n", 2);
    publisher.body.end = size + 2;
}

static void nats_publish(struct connection *c, uint64_t id, const struct stamp *stamp) {
    const struct buffer *head = &publisher.heads[publisher.place];
    size_t inbox_at = publisher.inbox_at[publisher.place], size = head->end + publisher.body.end;
    if (++publisher.place == publisher.topics)
        publisher.place = 0;
    uint8_t *at = buffer_room(&c->out, size);
    memcpy(at, head->bytes, head->end);
    memcpy(at + head->end, publisher.body.bytes, publisher.body.end);
    write_digits(at + inbox_at, CONNECTION_DIGITS, c->number);
    write_digits(at + inbox_at + CONNECTION_DIGITS + 3, ID_DIGITS, id);
    if (stamp)
        stamp_write(stamp, at + head->end);
    c->out.end += size;
}

static void acknowledged(struct connection *c, const struct message *m) {
    char why[TROUBLE_MAX];
    int64_t status = status_of(m);
    if (m->subject_size < ID_DIGITS)
        die("%s: an acknowledgement to %.*s", c->address, (int)m->subject_size, m->subject);
    uint64_t id = number_of(m->subject + m->subject_size - ID_DIGITS, ID_DIGITS);
    if (status == 0 && !memmem(m->body, m->body_size, "\"error\":", 8)) {
        c->listener->accepted(c, id);
        return;
    }
    json_text(m->body, m->body_size, "\"description\":", why, sizeof why);
    if (status) /* 503: no stream's leader listens to the subject */
        snprintf(why, sizeof why, "status %d", (int)status);
    c->listener->refused(c, id, why);
}

/* -- consuming -------------------------------------------------------------------------------- */

static void pull_more(struct connection *c) {
    struct session *session = c->own;
    static const char REQUEST[] = "{\"batch\":500,\"expires\":30000000000}";
    _Static_assert(PULL_MESSAGES == 500, "the same number as in REQUEST");
    while (session->asked_for <= (PULLS - 1) * PULL_MESSAGES) {
        buffer_text(&c->out, "PUB $JS.API.CONSUMER.MSG.NEXT.%s.%s %s.%0*u.pulled %zu\r\n%s\r\n",
                    session->stream, session->consumer, inbox(), CONNECTION_DIGITS, c->number,
                    sizeof REQUEST - 1, REQUEST);
        session->asked_for += PULL_MESSAGES;
    }
}

static void nats_consume(struct connection *c) {
    ((struct session *)c->own)->fetched_ns = turn_ns;
    pull_more(c);
}

static void acknowledge(struct connection *c) {
    struct session *session = c->own;
    buffer_text(&c->out, "PUB %s 4\r\n+ACK\r\n", session->last_reply);
    session->unacknowledged = 0;
    c->listener->fetched(c, turn_ns - session->fetched_ns);
    session->fetched_ns = turn_ns;
}

/* A pull has ended: 408 after its time, 404 without messages, 409 and 503 by some trouble. */
static void pull_ended(struct connection *c, const struct message *m) {
    static const char PENDING[] = "Nats-Pending-Messages: ";
    struct session *session = c->own;
    char why[TROUBLE_MAX];
    int64_t status = status_of(m);
    if (status == 100) /* a sign of life */
        return;
    const uint8_t *at = memmem(m->headers, m->headers_size, PENDING, sizeof PENDING - 1);
    int64_t left = PULL_MESSAGES;
    if (at)
        left = (int64_t)number_of((const char *)at + sizeof PENDING - 1, 9);
    session->asked_for = session->asked_for > left ? session->asked_for - left : 0;
    if (status != 408 && status != 404) {
        snprintf(why, sizeof why, "%.*s", (int)(m->headers_size < 80 ? m->headers_size : 80),
                 (const char *)m->headers);
        c->listener->refused(c, 0, why);
    }
    pull_more(c);
}

static void delivered(struct connection *c, const struct message *m) {
    struct session *session = c->own;
    if (status_of(m)) {
        pull_ended(c, m);
        return;
    }
    if (!m->reply || m->reply_size >= sizeof session->last_reply)
        die("%s: a message without a subject to acknowledge it", c->address);
    memcpy(session->last_reply, m->reply, m->reply_size);
    session->last_reply[m->reply_size] = 0;
    session->asked_for--;
    c->listener->arrived(c, m->body, m->body_size);
    if (++session->unacknowledged == PULL_MESSAGES && session->stored)
        acknowledge(c);
}

static void nats_receive(struct connection *c) {
    struct session *session = c->own;
    struct message m;
    while (next_message(c, &m)) {
        if (m.sid == SID_ACKNOWLEDGEMENTS)
            acknowledged(c, &m);
        else if (m.sid == SID_MESSAGES)
            delivered(c, &m);
    }
    if (!session->consumes)
        return;
    /* New messages are acknowledged when they came, all that one receive brought at once. */
    if (!session->stored && session->unacknowledged > 0)
        acknowledge(c);
    pull_more(c);
}

static bool nats_finish_consumer(struct connection *c, int64_t until_ns) {
    struct session *session = c->own;
    char subject[NAME_MAX_BYTES * 3];
    if (session->unacknowledged > 0)
        acknowledge(c);
    snprintf(subject, sizeof subject, "CONSUMER.DELETE.%s.%s", session->stream, session->consumer);
    return call(c, subject, "", until_ns);
}

static void nats_forget(struct connection *c) { free(c->own); }

const struct dialect nats = {
    .name = "nats",
    .leader_only = false,
    .greet = nats_greet,
    .declare = nats_declare,
    .attach_publisher = nats_attach_publisher,
    .attach_consumer = nats_attach_consumer,
    .compose = nats_compose,
    .publish = nats_publish,
    .consume = nats_consume,
    .receive = nats_receive,
    .finish_consumer = nats_finish_consumer,
    .leader = nats_leader,
    .forget = nats_forget,
};

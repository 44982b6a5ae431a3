/* AMQP 0-9-1 as RabbitMQ speaks it: persistent messages into quorum queues, publisher confirms.
 *
 * A message is published through the default exchange into the queue named like its topic, or, if
 * several groups shall each get it, into a fanout exchange with a queue for each group. The id of a
 * request is the delivery tag that both sides count, so nothing in a message changes at all. */

#include "generator.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    METHOD = 1,
    HEADER = 2,
    BODY = 3,
    HEARTBEAT = 8,
    FRAME_END = 0xCE,
    FRAME_AROUND = 8,       /* type, channel, size; and the end */
    FRAME_BYTES = 131072,   /* RabbitMQ's default frame_max */
    PERSISTENT = 2,
    PREFETCH = 1000,
    ACK_EVERY = 100,
    DURABLE = 2,
};

/* class << 16 | method */
enum {
    CONNECTION_START = 10 << 16 | 10,
    CONNECTION_START_OK = 10 << 16 | 11,
    CONNECTION_TUNE = 10 << 16 | 30,
    CONNECTION_TUNE_OK = 10 << 16 | 31,
    CONNECTION_OPEN = 10 << 16 | 40,
    CONNECTION_OPEN_OK = 10 << 16 | 41,
    CONNECTION_CLOSE = 10 << 16 | 50,
    CHANNEL_OPEN = 20 << 16 | 10,
    CHANNEL_OPEN_OK = 20 << 16 | 11,
    CHANNEL_CLOSE = 20 << 16 | 40,
    CHANNEL_CLOSE_OK = 20 << 16 | 41,
    EXCHANGE_DECLARE = 40 << 16 | 10,
    EXCHANGE_DECLARE_OK = 40 << 16 | 11,
    QUEUE_DECLARE = 50 << 16 | 10,
    QUEUE_DECLARE_OK = 50 << 16 | 11,
    QUEUE_BIND = 50 << 16 | 20,
    QUEUE_BIND_OK = 50 << 16 | 21,
    BASIC_QOS = 60 << 16 | 10,
    BASIC_QOS_OK = 60 << 16 | 11,
    BASIC_CONSUME = 60 << 16 | 20,
    BASIC_PUBLISH = 60 << 16 | 40,
    BASIC_DELIVER = 60 << 16 | 60,
    BASIC_ACK = 60 << 16 | 80,
    BASIC_NACK = 60 << 16 | 120,
    CONFIRM_SELECT = 85 << 16 | 10,
    CONFIRM_SELECT_OK = 85 << 16 | 11,
};

struct frame {
    uint8_t type;
    uint32_t method; /* of a method frame */
    const uint8_t *payload;
    size_t size;
};

/* What a connection is in the middle of. */
struct channel {
    char queue[NAME_MAX_BYTES];
    bool consumes, stored;
    uint64_t tag, acked_tag;  /* of the last delivery, and of the last one acknowledged */
    uint64_t body_left;       /* of the delivery that is coming in */
    struct buffer body;       /* of one that comes in several frames */
    int64_t fetched_ns;       /* when the last acknowledgement went out */
};

static struct {
    struct buffer *methods; /* basic.publish, one for each topic */
    unsigned topics, place;
    struct buffer content; /* header and body frames: the same for all */
    size_t body_at;
} publisher;

/* -- frames ----------------------------------------------------------------------------------- */

static void frame_put(struct buffer *out, uint8_t type, uint16_t channel,
                      const struct buffer *payload) {
    buffer_u8(out, type);
    buffer_u16(out, channel);
    buffer_u32(out, (uint32_t)payload->end);
    buffer_put(out, payload->bytes, payload->end);
    buffer_u8(out, FRAME_END);
}

static void short_string(struct buffer *b, const char *text) {
    buffer_u8(b, (uint8_t)strlen(text));
    buffer_put(b, text, strlen(text));
}

static void long_string(struct buffer *b, const char *text, size_t size) {
    buffer_u32(b, (uint32_t)size);
    buffer_put(b, text, size);
}

/* Sends a method and frees its arguments. */
static void method_put(struct buffer *out, uint32_t method, struct buffer *arguments) {
    struct buffer payload = {0};
    buffer_u32(&payload, method);
    buffer_put(&payload, arguments->bytes, arguments->end);
    frame_put(out, METHOD, method >> 16 == 10 ? 0 : 1, &payload);
    buffer_free(&payload);
    buffer_free(arguments);
}

/* The next complete frame; what it points to holds until the next receive. */
static bool next_frame(struct connection *c, struct frame *f) {
    size_t have = c->in.end - c->in.start;
    const uint8_t *at = c->in.bytes + c->in.start;
    if (have >= 8 && memcmp(at, "AMQP", 4) == 0)
        die("%s speaks AMQP %d-%d-%d, not 0-9-1", c->address, at[5], at[6], at[7]);
    if (have < 7)
        return false;
    size_t size = read_u32(at + 3);
    if (size > FRAME_BYTES)
        die("%s: an AMQP frame of %zu bytes, where %d were agreed", c->address, size, FRAME_BYTES);
    if (have < size + FRAME_AROUND)
        return false;
    if (at[7 + size] != FRAME_END || (at[0] == METHOD && size < 4))
        die("%s: not an AMQP frame: type %d, %zu bytes", c->address, at[0], size);
    *f = (struct frame){.type = at[0], .payload = at + 7, .size = size};
    if (f->type == METHOD) {
        f->method = read_u32(f->payload);
        f->payload += 4;
        f->size -= 4;
    }
    c->in.start += size + FRAME_AROUND;
    return true;
}

/* The server's reason, if it closes the connection or the channel. */
static bool is_close(struct connection *c, const struct frame *f) {
    if (f->type != METHOD || (f->method != CONNECTION_CLOSE && f->method != CHANNEL_CLOSE) ||
        f->size < 3 || f->size < 3u + f->payload[2])
        return false;
    connection_fail(c, "the server closes: %d %.*s", read_u16(f->payload), f->payload[2],
                    (const char *)f->payload + 3);
    return true;
}

static bool await_method(struct connection *c, uint32_t method, struct frame *f,
                         int64_t until_ns) {
    for (;;) {
        while (next_frame(c, f)) {
            if (f->type == METHOD && f->method == method)
                return true;
            if (is_close(c, f))
                return false;
        }
        if (!connection_wait(c, until_ns))
            return false;
    }
}

static bool call(struct connection *c, uint32_t method, struct buffer *arguments, uint32_t answer,
                 int64_t until_ns) {
    struct frame f;
    method_put(&c->out, method, arguments);
    return await_method(c, answer, &f, until_ns);
}

/* -- setup ------------------------------------------------------------------------------------ */

static bool amqp_greet(struct connection *c, const struct options *o, int64_t until_ns) {
    static const char SECRET[] = "\0guest\0guest";
    struct buffer arguments = {0};
    struct frame f;
    (void)o;
    c->own = calloc(1, sizeof(struct channel));
    if (!c->own)
        die("out of memory");
    buffer_put(&c->out, "AMQP\0\0\11\1", 8);
    if (!await_method(c, CONNECTION_START, &f, until_ns))
        return false;
    buffer_u32(&arguments, 0); /* client properties: none */
    short_string(&arguments, "PLAIN");
    long_string(&arguments, SECRET, sizeof SECRET - 1);
    short_string(&arguments, "en_US");
    method_put(&c->out, CONNECTION_START_OK, &arguments);
    if (!await_method(c, CONNECTION_TUNE, &f, until_ns))
        return false;
    uint32_t frame_bytes = f.size < 8 ? 0 : read_u32(f.payload + 2);
    if (frame_bytes != 0 && frame_bytes < FRAME_BYTES)
        return connection_fail(c, "frame_max %u: %d is needed", frame_bytes, FRAME_BYTES);
    buffer_u16(&arguments, f.size < 2 ? 0 : read_u16(f.payload));
    buffer_u32(&arguments, FRAME_BYTES);
    buffer_u16(&arguments, 0); /* no heartbeats: they would be traffic of their own */
    method_put(&c->out, CONNECTION_TUNE_OK, &arguments);
    short_string(&arguments, "/");
    short_string(&arguments, "");
    buffer_u8(&arguments, 0);
    if (!call(c, CONNECTION_OPEN, &arguments, CONNECTION_OPEN_OK, until_ns))
        return false;
    short_string(&arguments, "");
    return call(c, CHANNEL_OPEN, &arguments, CHANNEL_OPEN_OK, until_ns);
}

static bool declare_queue(struct connection *c, const char *queue, int64_t until_ns) {
    struct buffer arguments = {0}, table = {0};
    short_string(&table, "x-queue-type");
    buffer_u8(&table, 'S');
    long_string(&table, "quorum", 6);
    buffer_u16(&arguments, 0);
    short_string(&arguments, queue);
    buffer_u8(&arguments, DURABLE);
    long_string(&arguments, (const char *)table.bytes, table.end);
    buffer_free(&table);
    return call(c, QUEUE_DECLARE, &arguments, QUEUE_DECLARE_OK, until_ns);
}

/* With the number of groups in the name: a run with fewer must not fill the queues of the rest. */
static void exchange_name(char *into, size_t size, const struct options *o) {
    snprintf(into, size, "%s.to-%u", o->topic, o->groups);
}

static void group_name(char *into, size_t size, const struct options *o, int group) {
    snprintf(into, size, "%s.to-%u.group-%d", o->topic, o->groups, group);
}

static bool declare_fanout(struct connection *c, const struct options *o) {
    char exchange[NAME_MAX_BYTES], queue[NAME_MAX_BYTES];
    struct buffer arguments = {0};
    exchange_name(exchange, sizeof exchange, o);
    buffer_u16(&arguments, 0);
    short_string(&arguments, exchange);
    short_string(&arguments, "fanout");
    buffer_u8(&arguments, DURABLE);
    buffer_u32(&arguments, 0);
    if (!call(c, EXCHANGE_DECLARE, &arguments, EXCHANGE_DECLARE_OK, deadline_ns(o)))
        return false;
    for (unsigned group = 0; group < o->groups; group++) {
        group_name(queue, sizeof queue, o, (int)group);
        if (!declare_queue(c, queue, deadline_ns(o)))
            return false;
        buffer_u16(&arguments, 0);
        short_string(&arguments, queue);
        short_string(&arguments, exchange);
        short_string(&arguments, "");
        buffer_u8(&arguments, 0);
        buffer_u32(&arguments, 0);
        if (!call(c, QUEUE_BIND, &arguments, QUEUE_BIND_OK, deadline_ns(o)))
            return false;
    }
    return true;
}

static bool fans_out(const struct options *o) { return strcmp(o->load, "e2e") == 0; }

static bool amqp_declare(struct connection *c, const struct options *o) {
    char queue[NAME_MAX_BYTES];
    bool prepares = strcmp(o->load, "prepare") == 0;
    for (unsigned number = 0; number < o->topics && !fans_out(o); number++) {
        topic_name(queue, sizeof queue, o, number);
        if (!declare_queue(c, queue, deadline_ns(o)))
            return false;
    }
    return (!fans_out(o) && !prepares) || declare_fanout(c, o);
}

static bool amqp_attach_publisher(struct connection *c, const struct options *o,
                                  int64_t until_ns) {
    struct buffer arguments = {0};
    (void)o;
    buffer_u8(&arguments, 0);
    return call(c, CONFIRM_SELECT, &arguments, CONFIRM_SELECT_OK, until_ns);
}

static bool amqp_attach_consumer(struct connection *c, const struct options *o, int group,
                                 int64_t until_ns) {
    struct channel *channel = c->own;
    struct buffer arguments = {0};
    channel->consumes = true;
    channel->stored = group < 0;
    if (group < 0)
        snprintf(channel->queue, sizeof channel->queue, "%s", o->topic);
    else
        group_name(channel->queue, sizeof channel->queue, o, group);
    buffer_u32(&arguments, 0);
    buffer_u16(&arguments, PREFETCH);
    buffer_u8(&arguments, 0);
    return call(c, BASIC_QOS, &arguments, BASIC_QOS_OK, until_ns);
}

static void amqp_consume(struct connection *c) {
    enum { NO_WAIT = 8 }; /* the first delivery is answer enough */
    struct channel *channel = c->own;
    struct buffer arguments = {0};
    buffer_u16(&arguments, 0);
    short_string(&arguments, channel->queue);
    short_string(&arguments, "load");
    buffer_u8(&arguments, NO_WAIT);
    buffer_u32(&arguments, 0);
    method_put(&c->out, BASIC_CONSUME, &arguments);
    channel->fetched_ns = turn_ns;
}

/* -- publishing ------------------------------------------------------------------------------- */

static void compose_method(struct buffer *out, const char *exchange, const char *key) {
    struct buffer arguments = {0};
    buffer_u16(&arguments, 0);
    short_string(&arguments, exchange);
    short_string(&arguments, key);
    buffer_u8(&arguments, 0);
    method_put(out, BASIC_PUBLISH, &arguments);
}

static void compose_content(size_t size) {
    enum { HAS_DELIVERY_MODE = 1 << 12, PART = FRAME_BYTES - FRAME_AROUND };
    struct buffer payload = {0};
    buffer_u16(&payload, 60);
    buffer_u16(&payload, 0);
    buffer_u64(&payload, size);
    buffer_u16(&payload, HAS_DELIVERY_MODE);
    buffer_u8(&payload, PERSISTENT);
    frame_put(&publisher.content, HEADER, 1, &payload);
    publisher.body_at = publisher.content.end + 7;
    for (size_t left = size; left > 0; left -= payload.end) {
        payload.start = payload.end = 0;
        size_t part = left < PART ? left : PART;
        memset(buffer_room(&payload, part), 'x', part);
        payload.end = part;
        frame_put(&publisher.content, BODY, 1, &payload);
    }
    buffer_free(&payload);
}

static void amqp_compose(const struct options *o) {
    char name[NAME_MAX_BYTES];
    publisher.topics = fans_out(o) ? 1 : o->topics;
    publisher.methods = calloc(publisher.topics, sizeof *publisher.methods);
    if (!publisher.methods)
        die("out of memory");
    for (unsigned number = 0; number < publisher.topics; number++) {
        if (fans_out(o))
            exchange_name(name, sizeof name, o);
        else
            topic_name(name, sizeof name, o, number);
        compose_method(&publisher.methods[number], fans_out(o) ? name : "",
                       fans_out(o) ? "" : name);
    }
    compose_content(o->body_bytes * o->batch);
}

static void amqp_publish(struct connection *c, uint64_t id, const struct stamp *stamp) {
    (void)id; /* the server counts with us */
    const struct buffer *method = &publisher.methods[publisher.place];
    if (++publisher.place == publisher.topics)
        publisher.place = 0;
    size_t size = method->end + publisher.content.end;
    uint8_t *at = buffer_room(&c->out, size);
    memcpy(at, method->bytes, method->end);
    memcpy(at + method->end, publisher.content.bytes, publisher.content.end);
    if (stamp)
        stamp_write(stamp, at + method->end + publisher.body_at);
    c->out.end += size;
}

static void confirmed(struct connection *c, const struct frame *f) {
    if (f->size < 9)
        die("%s: a confirm of %zu bytes", c->address, f->size);
    uint64_t last = read_u64(f->payload), first = f->payload[8] & 1 ? c->window.oldest : last;
    if (last >= c->window.next)
        die("%s: confirms message %" PRIu64 " of %" PRIu64, c->address, last, c->window.next - 1);
    for (uint64_t id = first; id <= last; id++) {
        if (first != last && c->window.began_ns[id & c->window.mask] == 0)
            continue; /* confirmed before, alone */
        if (f->method == BASIC_ACK)
            c->listener->accepted(c, id);
        else
            c->listener->refused(c, id, "basic.nack");
    }
}

/* -- consuming -------------------------------------------------------------------------------- */

static void acknowledge(struct connection *c) {
    enum { MULTIPLE = 1 };
    struct channel *channel = c->own;
    struct buffer arguments = {0};
    buffer_u64(&arguments, channel->tag);
    buffer_u8(&arguments, MULTIPLE);
    method_put(&c->out, BASIC_ACK, &arguments);
    channel->acked_tag = channel->tag;
    c->listener->fetched(c, turn_ns - channel->fetched_ns);
    channel->fetched_ns = turn_ns;
}

static void delivered(struct connection *c, const uint8_t *body, size_t size) {
    struct channel *channel = c->own;
    channel->tag++; /* the server counts from 1 as well */
    c->listener->arrived(c, body, size);
    if (channel->stored && channel->tag - channel->acked_tag == ACK_EVERY)
        acknowledge(c);
}

static void body_came(struct connection *c, const struct frame *f) {
    struct channel *channel = c->own;
    if (f->size > channel->body_left)
        die("%s: %zu bytes of a body where %" PRIu64 " were left", c->address, f->size,
            channel->body_left);
    channel->body_left -= f->size;
    if (channel->body_left == 0 && channel->body.end == 0) { /* nearly always: no copy */
        delivered(c, f->payload, f->size);
        return;
    }
    buffer_put(&channel->body, f->payload, f->size);
    if (channel->body_left == 0) {
        delivered(c, channel->body.bytes, channel->body.end);
        channel->body.end = 0;
    }
}

static void header_came(struct connection *c, const struct frame *f) {
    struct channel *channel = c->own;
    if (f->size < 12)
        die("%s: a content header of %zu bytes", c->address, f->size);
    channel->body_left = read_u64(f->payload + 4);
    if (channel->body_left == 0)
        delivered(c, f->payload, 0);
}

static void amqp_receive(struct connection *c) {
    struct channel *channel = c->own;
    struct frame f;
    while (next_frame(c, &f)) {
        if (f.type == BODY) {
            body_came(c, &f);
        } else if (f.type == HEADER) {
            header_came(c, &f);
        } else if (f.type == METHOD && (f.method == BASIC_ACK || f.method == BASIC_NACK)) {
            confirmed(c, &f);
        } else if (is_close(c, &f)) {
            c->lost = true;
            return;
        } /* else deliver, whose tag is counted, or a heartbeat */
    }
    /* New messages are acknowledged when they came, all that one receive brought at once. */
    if (channel->consumes && !channel->stored && channel->tag > channel->acked_tag)
        acknowledge(c);
}

static bool amqp_finish_consumer(struct connection *c, int64_t until_ns) {
    struct channel *channel = c->own;
    struct buffer arguments = {0};
    if (channel->tag > channel->acked_tag)
        acknowledge(c);
    /* The answer to close says that the acknowledgements before it have been seen. */
    buffer_u16(&arguments, 200);
    short_string(&arguments, "done");
    buffer_u32(&arguments, 0);
    return call(c, CHANNEL_CLOSE, &arguments, CHANNEL_CLOSE_OK, until_ns);
}

static void amqp_forget(struct connection *c) {
    struct channel *channel = c->own;
    if (channel)
        buffer_free(&channel->body);
    free(channel);
}

const struct dialect amqp = {
    .name = "amqp",
    .leader_only = false,
    .greet = amqp_greet,
    .declare = amqp_declare,
    .attach_publisher = amqp_attach_publisher,
    .attach_consumer = amqp_attach_consumer,
    .compose = amqp_compose,
    .publish = amqp_publish,
    .consume = amqp_consume,
    .receive = amqp_receive,
    .finish_consumer = amqp_finish_consumer,
    .forget = amqp_forget,
};

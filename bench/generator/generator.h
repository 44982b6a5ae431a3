/* The load generator: what its files share.
 *
 * main.c reads the command line, loads.c decides what is sent and when, connection.c moves bytes,
 * figures.c counts, and remoting.c, amqp.c and nats.c know one protocol each. A load never looks
 * into a protocol and a protocol never looks at the clock, so that three kinds of servers are
 * measured by the same loop and the same statistics.
 *
 * One thread, one epoll set. Setup may block; what is measured does not. */
#ifndef GENERATOR_H
#define GENERATOR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ADDRESSES_MAX = 16,
    CONNECTIONS_MAX = 4096,
    GROUPS_MAX = 256,
    QUEUES_MAX = 1024,
    TOPICS_MAX = 100000,
    BATCH_MAX = 4096,
    IN_FLIGHT_MAX = 65536,
    BODY_BYTES_MAX = 4 << 20, /* what brokers take by default */
    TROUBLE_MAX = 400,
    STAMP_BYTES = 24,
    ID_DIGITS = 10,
};

#define ID_FIRST 1000000000u /* ten digits, so that an id is overwritten in place */
#define MS ((int64_t)1000000)
#define S ((int64_t)1000000000)

struct connection;

/* -- options ---------------------------------------------------------------------------------- */

struct options {
    const struct dialect *dialect;
    const char *load;
    const char *addresses[ADDRESSES_MAX];
    unsigned address_count;
    /* Where a node that a server calls by name is reached, as name=host:port; see leader(). */
    const char *named[ADDRESSES_MAX];
    unsigned named_count;
    const char *topic;
    unsigned connections, in_flight, batch, queues, topics, groups, replicas;
    uint64_t count, warm;
    size_t body_bytes;
    double rate, seconds, timeout_s;
};

/* Ends the process with status 1 and this text on stderr. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* -- buffers ---------------------------------------------------------------------------------- */

/* Bytes from `start` to `end` are in use. Both directions are bounded: what goes out by the
 * requests in flight, what comes in by the largest frame. */
struct buffer {
    uint8_t *bytes;
    size_t start, end, capacity;
};

uint8_t *buffer_room(struct buffer *b, size_t size); /* at least so much, at `end` */
void buffer_put(struct buffer *b, const void *bytes, size_t size);
void buffer_text(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buffer_u8(struct buffer *b, uint8_t value);
void buffer_u16(struct buffer *b, uint16_t value);
void buffer_u32(struct buffer *b, uint32_t value);
void buffer_u64(struct buffer *b, uint64_t value);
void buffer_free(struct buffer *b);

uint16_t read_u16(const uint8_t *at);
uint32_t read_u32(const uint8_t *at);
uint64_t read_u64(const uint8_t *at);
void write_u32(uint8_t *at, uint32_t value);
void write_u64(uint8_t *at, uint64_t value);
void write_digits(uint8_t *at, unsigned digits, uint64_t value);

/* JSON is scanned, not parsed: a key with its quotes and colon cannot occur inside a string,
 * where its quotes would be escaped. `key` is given as "\"code\":". */
bool json_integer(const uint8_t *text, size_t size, const char *key, int64_t *value);
/* The string as it is written, "" if there is none; cut at `most`. */
void json_text(const uint8_t *text, size_t size, const char *key, char *into, size_t most);

/* -- requests in flight ----------------------------------------------------------------------- */

/* Ids of a connection count from 1 without a hole (AMQP's delivery tags are made so), and each
 * has a place in a ring that holds when it began. */
struct window {
    uint64_t next, oldest; /* oldest: no lower id is outstanding */
    uint64_t mask;
    unsigned outstanding;
    int64_t *began_ns; /* 0: not outstanding */
};

void window_init(struct window *w, unsigned in_flight);
bool window_has_room(const struct window *w, unsigned in_flight);
uint64_t window_open(struct window *w, int64_t began_ns);
/* False if `id` is not outstanding, as after a request that was given up. */
bool window_settle(struct window *w, uint64_t id, int64_t *began_ns);
/* Gives up what began before; returns how many. */
unsigned window_forget(struct window *w, int64_t before_ns);

/* -- connections and their loop --------------------------------------------------------------- */

/* What a load wants to hear from a protocol. Texts need not end in a zero. */
struct listener {
    void (*accepted)(struct connection *c, uint64_t id);
    void (*refused)(struct connection *c, uint64_t id, const char *why);
    void (*arrived)(struct connection *c, const uint8_t *body, size_t size);
    /* A request for messages has been answered, having been under way so long. */
    void (*fetched)(struct connection *c, int64_t took_ns);
};

struct connection {
    int fd;
    unsigned number;
    const char *address;
    const struct dialect *dialect;
    const struct listener *listener;
    void *own; /* the protocol's */
    struct buffer in, out;
    struct window window;
    bool lost, waits_to_send;
    char trouble[TROUBLE_MAX]; /* why it is lost, or why setup failed */
};

extern int64_t turn_ns; /* when the loop last looked: after each wait and each receive */

int64_t clock_ns(void);
int64_t deadline_ns(const struct options *o); /* of what begins now */

/* Connected and greeted, or NULL with the reason in `trouble`. Blocks. */
struct connection *connection_open(const struct options *o, unsigned number, const char *address,
                                   double timeout_s, char *trouble);
void connection_close(struct connection *c);
/* Blocks until bytes came that no one has looked at, sending what is to be sent. For setup. */
bool connection_wait(struct connection *c, int64_t until_ns);
/* Blocks until all is sent. For setup. */
bool connection_flush(struct connection *c, int64_t until_ns);
/* Always false, so that one can `return` it. */
bool connection_fail(struct connection *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void loop_add(struct connection *c);
void loop_remove(struct connection *c);
/* One send for each connection that has something to send, one wait until `until_ns` at the
 * latest, one receive for each connection that has something to read. */
void loop_turn(int64_t until_ns);

/* -- protocols -------------------------------------------------------------------------------- */

/* The first bytes of a body whose way is timed. Other messages in the same queue, left by a run
 * before, have another `run`. */
struct stamp {
    uint64_t run, sequence;
    int64_t due_ns;
};

bool stamp_read(struct stamp *stamp, const uint8_t *body, size_t size);
void stamp_write(const struct stamp *stamp, uint8_t *body);

struct dialect {
    const char *name;
    /* Only the leader takes a message, so a refusal sends the client to another address; where
     * any node takes it and passes it on, the client stays. */
    bool leader_only;
    /* The handshake. This and the next three block, return false with `trouble` set, and may be
     * called again after. */
    bool (*greet)(struct connection *c, const struct options *o, int64_t until_ns);
    /* Makes what the load needs: topics, queues, streams. Nothing happens if they are there. As
     * there may be thousands, each has all of the timeout. */
    bool (*declare)(struct connection *c, const struct options *o);
    /* What this connection needs before it publishes. */
    bool (*attach_publisher)(struct connection *c, const struct options *o, int64_t until_ns);
    /* What it needs before it consumes: everything stored (group < 0), or what comes from now
     * on, as one of the groups that each get everything. */
    bool (*attach_consumer)(struct connection *c, const struct options *o, int group,
                            int64_t until_ns);
    /* Before all connections: templates of what is published. */
    void (*compose)(const struct options *o);
    /* Appends one request to what goes out. `stamp` may be NULL. */
    void (*publish)(struct connection *c, uint64_t id, const struct stamp *stamp);
    /* The first requests for messages; further ones follow by themselves. */
    void (*consume)(struct connection *c);
    /* Takes all complete frames out of what came in and tells the listener. */
    void (*receive)(struct connection *c);
    /* Acknowledges the rest and leaves nothing behind. Blocks. */
    bool (*finish_consumer)(struct connection *c, int64_t until_ns);
    /* The address of the node that leads the topic if it is known to be another one, or NULL.
     * May be NULL itself. Blocks. */
    const char *(*leader)(struct connection *c, const struct options *o, int64_t until_ns);
    void (*forget)(struct connection *c); /* frees `own` */
};

extern const struct dialect remoting, amqp, nats;

/* "T" if there is one topic, else "T-17"; in NATS a subject "T.17". */
void topic_name(char *into, size_t size, const struct options *o, unsigned number);
enum { NAME_MAX_BYTES = 256 };

/* -- figures ---------------------------------------------------------------------------------- */

enum { BUCKETS = 64 << 8 };

/* Latencies in buckets 0.4 % wide, so that memory does not grow with the run. */
struct histogram {
    uint64_t buckets[BUCKETS];
    uint64_t count;
    int64_t max_ns;
};

void histogram_add(struct histogram *h, int64_t latency_ns);
int64_t histogram_at(const struct histogram *h, double share);

struct figures {
    struct histogram latencies;
    int64_t began_ns, ended_ns;
    double cpu_began_s, cpu_ended_s;
    uint64_t count, refused, bytes;
};

void figures_begin(struct figures *f, int64_t now_ns); /* forgets what was before */
void figures_end(struct figures *f, int64_t now_ns);
/* The one line on stdout. `more` is further members, as ",\"gap_ms\":3", or "". */
void figures_print(const struct figures *f, const struct options *o, const char *more);

/* -- loads ------------------------------------------------------------------------------------ */

void load_send(const struct options *o);
void load_drain(const struct options *o);
void load_e2e(const struct options *o);
void load_gap(const struct options *o);
void load_prepare(const struct options *o);

#endif

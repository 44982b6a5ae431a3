/* Bytes in and out: buffers, requests in flight, sockets and the epoll set they share. */

#include "generator.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    RECEIVE_BYTES = 256 << 10,
    BUFFER_MAX = 256 << 20, /* more than all that may be in flight; a bound, not a size */
    READY_MAX = 256,
};

int64_t turn_ns;

static int epoll_fd = -1;
static struct connection *in_loop[CONNECTIONS_MAX];
static unsigned in_loop_count;

int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * S + now.tv_nsec;
}

int64_t deadline_ns(const struct options *o) { return clock_ns() + (int64_t)(o->timeout_s * 1e9); }

/* -- buffers ---------------------------------------------------------------------------------- */

uint8_t *buffer_room(struct buffer *b, size_t size) {
    if (b->start == b->end)
        b->start = b->end = 0;
    if (b->capacity - b->end >= size)
        return b->bytes + b->end;
    if (b->start > 0) {
        memmove(b->bytes, b->bytes + b->start, b->end - b->start);
        b->end -= b->start;
        b->start = 0;
    }
    if (b->capacity - b->end < size) {
        size_t capacity = b->capacity ? b->capacity : 4096;
        while (capacity - b->end < size)
            capacity *= 2;
        if (capacity > BUFFER_MAX)
            die("%zu bytes are waiting on one connection: at most %d may", b->end + size,
                BUFFER_MAX);
        b->bytes = realloc(b->bytes, capacity);
        if (!b->bytes)
            die("out of memory");
        b->capacity = capacity;
    }
    return b->bytes + b->end;
}

void buffer_put(struct buffer *b, const void *bytes, size_t size) {
    if (size == 0)
        return; /* memcpy from NULL is undefined even then */
    memcpy(buffer_room(b, size), bytes, size);
    b->end += size;
}

void buffer_text(struct buffer *b, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *room = (char *)buffer_room(b, (size_t)size + 1);
    va_start(arguments, format);
    vsnprintf(room, (size_t)size + 1, format, arguments);
    va_end(arguments);
    b->end += (size_t)size;
}

void buffer_u8(struct buffer *b, uint8_t value) { buffer_put(b, &value, 1); }

void buffer_u16(struct buffer *b, uint16_t value) {
    uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
    buffer_put(b, bytes, sizeof bytes);
}

void buffer_u32(struct buffer *b, uint32_t value) {
    uint8_t bytes[4];
    write_u32(bytes, value);
    buffer_put(b, bytes, sizeof bytes);
}

void buffer_u64(struct buffer *b, uint64_t value) {
    uint8_t bytes[8];
    write_u64(bytes, value);
    buffer_put(b, bytes, sizeof bytes);
}

void buffer_free(struct buffer *b) {
    free(b->bytes);
    memset(b, 0, sizeof *b);
}

uint16_t read_u16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

uint32_t read_u32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

uint64_t read_u64(const uint8_t *at) { return (uint64_t)read_u32(at) << 32 | read_u32(at + 4); }

void write_u32(uint8_t *at, uint32_t value) {
    for (int place = 3; place >= 0; place--, value >>= 8)
        at[place] = (uint8_t)value;
}

void write_u64(uint8_t *at, uint64_t value) {
    write_u32(at, (uint32_t)(value >> 32));
    write_u32(at + 4, (uint32_t)value);
}

void write_digits(uint8_t *at, unsigned digits, uint64_t value) {
    for (unsigned place = digits; place-- > 0; value /= 10)
        at[place] = (uint8_t)('0' + value % 10);
}

static const uint8_t *json_value(const uint8_t *text, size_t size, const char *key) {
    const uint8_t *at = memmem(text, size, key, strlen(key));
    if (!at)
        return NULL;
    for (at += strlen(key); at < text + size && *at == ' '; at++) {
    }
    return at < text + size ? at : NULL;
}

bool json_integer(const uint8_t *text, size_t size, const char *key, int64_t *value) {
    const uint8_t *at = json_value(text, size, key), *end = text + size;
    if (!at)
        return false;
    at += *at == '"'; /* remoting's extFields are strings throughout */
    bool negative = at < end && *at == '-';
    at += negative;
    if (at >= end || *at < '0' || *at > '9')
        return false;
    uint64_t found = 0;
    for (; at < end && *at >= '0' && *at <= '9'; at++)
        found = found * 10 + (uint64_t)(*at - '0');
    *value = negative ? -(int64_t)found : (int64_t)found;
    return true;
}

void json_text(const uint8_t *text, size_t size, const char *key, char *into, size_t most) {
    const uint8_t *at = json_value(text, size, key), *end = text + size;
    size_t length = 0;
    if (at && *at == '"')
        for (at++; at < end && *at != '"' && length + 1 < most; at++) {
            if (*at == '\\' && at + 1 < end)
                at++;
            into[length++] = (char)*at;
        }
    into[length] = 0;
}

bool stamp_read(struct stamp *stamp, const uint8_t *body, size_t size) {
    if (size < STAMP_BYTES)
        return false;
    stamp->run = read_u64(body);
    stamp->sequence = read_u64(body + 8);
    stamp->due_ns = (int64_t)read_u64(body + 16);
    return true;
}

void stamp_write(const struct stamp *stamp, uint8_t *body) {
    write_u64(body, stamp->run);
    write_u64(body + 8, stamp->sequence);
    write_u64(body + 16, (uint64_t)stamp->due_ns);
}

/* -- requests in flight ----------------------------------------------------------------------- */

void window_init(struct window *w, unsigned in_flight) {
    /* A late answer holds the ring back, not the others at once: four times the room. */
    uint64_t capacity = 1024;
    while (capacity < (uint64_t)in_flight * 4)
        capacity *= 2;
    *w = (struct window){.next = 1, .oldest = 1, .mask = capacity - 1};
    w->began_ns = calloc(capacity, sizeof *w->began_ns);
    if (!w->began_ns)
        die("out of memory");
}

bool window_has_room(const struct window *w, unsigned in_flight) {
    return w->outstanding < in_flight && w->next - w->oldest <= w->mask;
}

uint64_t window_open(struct window *w, int64_t began_ns) {
    w->began_ns[w->next & w->mask] = began_ns;
    w->outstanding++;
    return w->next++;
}

bool window_settle(struct window *w, uint64_t id, int64_t *began_ns) {
    if (id < w->oldest || id >= w->next || w->began_ns[id & w->mask] == 0)
        return false;
    *began_ns = w->began_ns[id & w->mask];
    w->began_ns[id & w->mask] = 0;
    w->outstanding--;
    while (w->oldest < w->next && w->began_ns[w->oldest & w->mask] == 0)
        w->oldest++;
    return true;
}

unsigned window_forget(struct window *w, int64_t before_ns) {
    unsigned forgotten = 0;
    int64_t began;
    for (uint64_t id = w->oldest; id < w->next; id++)
        if (w->began_ns[id & w->mask] != 0 && w->began_ns[id & w->mask] < before_ns)
            forgotten += window_settle(w, id, &began);
    return forgotten;
}

/* -- one connection --------------------------------------------------------------------------- */

bool connection_fail(struct connection *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->trouble, sizeof c->trouble, format, arguments);
    va_end(arguments);
    return false;
}

static void lose(struct connection *c, const char *why) {
    if (!c->lost) /* the first reason is the cause */
        connection_fail(c, "%s", why);
    c->lost = true;
}

static bool wait_ready(int fd, short events, int64_t until_ns) {
    for (;;) {
        int64_t left_ms = (until_ns - clock_ns() + MS - 1) / MS;
        if (left_ms <= 0)
            return false;
        struct pollfd polled = {.fd = fd, .events = events};
        int ready = poll(&polled, 1, (int)(left_ms < 60000 ? left_ms : 60000));
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            die("poll: %s", strerror(errno));
    }
}

static int connect_to(const char *address, int64_t until_ns, char *trouble) {
    char host[NAME_MAX_BYTES];
    const char *colon = strrchr(address, ':');
    if (!colon || (size_t)(colon - address) >= sizeof host)
        die("an address is HOST:PORT, not '%s'", address);
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int failed = getaddrinfo(host, colon + 1, &hints, &found);
    if (failed)
        die("%s: %s", address, gai_strerror(failed));
    int fd = -1, error = ECONNREFUSED;
    for (struct addrinfo *each = found; each && fd < 0; each = each->ai_next) {
        fd = socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        error = connect(fd, each->ai_addr, each->ai_addrlen) == 0 ? 0 : errno;
        if (error == EINPROGRESS) {
            socklen_t size = sizeof error;
            if (!wait_ready(fd, POLLOUT, until_ns))
                error = ETIMEDOUT;
            else
                getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        }
        if (error) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    if (fd < 0)
        snprintf(trouble, TROUBLE_MAX, "%s", strerror(error));
    else
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return fd;
}

struct connection *connection_open(const struct options *o, unsigned number, const char *address,
                                   double timeout_s, char *trouble) {
    int64_t until_ns = clock_ns() + (int64_t)(timeout_s * 1e9);
    int fd = connect_to(address, until_ns, trouble);
    if (fd < 0)
        return NULL;
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        die("out of memory");
    c->fd = fd;
    c->number = number;
    c->address = address;
    c->dialect = o->dialect;
    window_init(&c->window, o->in_flight);
    if (!c->dialect->greet(c, o, until_ns)) {
        snprintf(trouble, TROUBLE_MAX, "%s", c->trouble);
        connection_close(c);
        return NULL;
    }
    return c;
}

void connection_close(struct connection *c) {
    loop_remove(c);
    close(c->fd);
    c->dialect->forget(c);
    buffer_free(&c->in);
    buffer_free(&c->out);
    free(c->window.began_ns);
    free(c);
}

/* One send; what the socket does not take stays. */
static void flush(struct connection *c) {
    if (c->lost || c->out.start == c->out.end)
        return;
    ssize_t sent = send(c->fd, c->out.bytes + c->out.start, c->out.end - c->out.start,
                        MSG_NOSIGNAL);
    if (sent > 0)
        c->out.start += (size_t)sent;
    else if (sent < 0 && errno != EAGAIN && errno != EINTR)
        lose(c, strerror(errno));
}

/* One receive. False if nothing was there. */
static bool receive(struct connection *c) {
    uint8_t *room = buffer_room(&c->in, RECEIVE_BYTES);
    ssize_t got = recv(c->fd, room, c->in.capacity - c->in.end, 0);
    turn_ns = clock_ns();
    if (got > 0)
        c->in.end += (size_t)got;
    else if (got == 0)
        lose(c, "the server closed the connection");
    else if (errno != EAGAIN && errno != EINTR)
        lose(c, strerror(errno));
    return got > 0;
}

bool connection_wait(struct connection *c, int64_t until_ns) {
    for (;;) {
        flush(c);
        if (c->lost)
            return false;
        bool more = c->out.start < c->out.end;
        if (!wait_ready(c->fd, more ? POLLIN | POLLOUT : POLLIN, until_ns))
            return connection_fail(c, "no answer in time");
        if (receive(c))
            return true;
        if (c->lost)
            return false;
    }
}

bool connection_flush(struct connection *c, int64_t until_ns) {
    for (;;) {
        flush(c);
        if (c->lost)
            return false;
        if (c->out.start == c->out.end)
            return true;
        if (!wait_ready(c->fd, POLLOUT, until_ns))
            return connection_fail(c, "the server takes nothing");
    }
}

/* -- all of them ------------------------------------------------------------------------------ */

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (c->waits_to_send ? EPOLLOUT : 0),
                                .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

void loop_add(struct connection *c) {
    if (epoll_fd < 0 && (epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1: %s", strerror(errno));
    if (in_loop_count == CONNECTIONS_MAX)
        die("at most %d connections", CONNECTIONS_MAX);
    in_loop[in_loop_count++] = c;
    watch(c, EPOLL_CTL_ADD);
    if (c->in.start < c->in.end) /* setup may have read on */
        c->dialect->receive(c);
}

void loop_remove(struct connection *c) {
    for (unsigned place = 0; place < in_loop_count; place++)
        if (in_loop[place] == c) {
            in_loop[place] = in_loop[--in_loop_count];
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
            return;
        }
}

/* epoll_wait counts whole milliseconds, too coarse for a schedule, so that the last few are
 * waited for by ppoll on the set itself (epoll_pwait2 would need Linux 5.11). */
static int wait_any(struct epoll_event *ready, int64_t until_ns) {
    int64_t left_ns = until_ns - clock_ns();
    if (left_ns > 5 * MS) {
        int64_t left_ms = left_ns / MS - 2;
        return epoll_wait(epoll_fd, ready, READY_MAX, (int)(left_ms < 60000 ? left_ms : 60000));
    }
    if (left_ns > 0) {
        struct pollfd polled = {.fd = epoll_fd, .events = POLLIN};
        struct timespec left = {.tv_nsec = left_ns};
        if (ppoll(&polled, 1, &left, NULL) <= 0)
            return 0;
    }
    return epoll_wait(epoll_fd, ready, READY_MAX, 0);
}

void loop_turn(int64_t until_ns) {
    for (unsigned place = 0; place < in_loop_count; place++) {
        struct connection *c = in_loop[place];
        flush(c);
        bool waits = c->out.start < c->out.end && !c->lost;
        if (waits != c->waits_to_send) {
            c->waits_to_send = waits;
            watch(c, EPOLL_CTL_MOD);
        }
    }
    struct epoll_event ready[READY_MAX];
    int count = wait_any(ready, until_ns);
    turn_ns = clock_ns();
    for (int place = 0; place < count; place++) {
        struct connection *c = ready[place].data.ptr;
        if (!c->lost && ready[place].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && receive(c))
            c->dialect->receive(c);
    }
}

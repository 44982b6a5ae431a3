/* What is sent when: closed loops, an open loop, and one that survives its server. */

#include "generator.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    REFUSED_MIN = 10,           /* so many sends may be refused in any run, */
    REFUSED_SHARE = 100,        /* and one in so many in a long one */
    OPEN_LOOP_BYTES = 64 << 20, /* what waits for a stalled server before messages wait unsent */
    DELIVERIES_MAX = INT32_MAX, /* a bit of memory each */
};

static struct {
    const struct options *o;
    struct figures figures;
    uint64_t issued, accepted, refused, arrived; /* requests; messages for `arrived` */
    uint64_t warm, target;                       /* requests */
    int64_t progress_ns;                         /* when something was last accepted or arrived */
} run;

static int64_t timeout_ns(void) { return (int64_t)(run.o->timeout_s * 1e9); }

static struct connection *open_or_die(const struct options *o, unsigned number,
                                      const char *address) {
    char trouble[TROUBLE_MAX] = "";
    struct connection *c = connection_open(o, number, address, o->timeout_s, trouble);
    if (!c)
        die("%s: %s", address, trouble);
    return c;
}

static void done_or_die(bool done, const struct connection *c) {
    if (!done)
        die("%s: %s", c->address, c->trouble);
}

/* Everything that is needed exists, and `address` is where to work. */
static const char *declared(const struct options *o) {
    const char *address = o->addresses[0];
    struct connection *c = open_or_die(o, 0, address);
    done_or_die(c->dialect->declare(c, o), c);
    if (c->dialect->leader) {
        const char *leader = c->dialect->leader(c, o, deadline_ns(o));
        address = leader ? leader : address;
    }
    connection_close(c);
    return address;
}

static void stop_if_stuck(const struct connection *c) {
    if (c->lost)
        die("%s: %s", c->address, c->trouble);
    if (turn_ns - run.progress_ns > timeout_ns())
        die("%s: nothing for %g s; accepted %" PRIu64 " requests, arrived %" PRIu64 " messages",
            c->address, run.o->timeout_s, run.accepted, run.arrived);
}

static void count_refusal(const struct connection *c, const char *why) {
    run.refused++;
    run.figures.refused++;
    if (run.refused > REFUSED_MIN && run.refused > run.accepted / REFUSED_SHARE)
        die("%s refuses: %s (%" PRIu64 " of %" PRIu64 " requests)", c->address, why, run.refused,
            run.refused + run.accepted);
}

static void nothing_arrives(struct connection *c, const uint8_t *body, size_t size) {
    (void)c, (void)body, (void)size;
}

static void nothing_fetched(struct connection *c, int64_t took_ns) { (void)c, (void)took_ns; }

/* -- send: a closed loop ---------------------------------------------------------------------- */

static void send_more(struct connection *c) {
    while (run.issued < run.target && window_has_room(&c->window, run.o->in_flight)) {
        c->dialect->publish(c, window_open(&c->window, turn_ns), NULL);
        run.issued++;
    }
}

static void send_accepted(struct connection *c, uint64_t id) {
    int64_t began_ns;
    if (!window_settle(&c->window, id, &began_ns))
        die("%s: accepts request %" PRIu64 ", which is not under way", c->address, id);
    run.progress_ns = turn_ns;
    if (++run.accepted > run.warm) {
        histogram_add(&run.figures.latencies, turn_ns - began_ns);
        run.figures.count += run.o->batch;
        run.figures.bytes += run.o->batch * run.o->body_bytes;
        if (run.accepted == run.target)
            figures_end(&run.figures, turn_ns);
    } else if (run.accepted == run.warm) {
        figures_begin(&run.figures, turn_ns);
    }
}

static void send_refused(struct connection *c, uint64_t id, const char *why) {
    int64_t began_ns;
    if (window_settle(&c->window, id, &began_ns))
        run.issued--; /* another one takes its place */
    count_refusal(c, why);
}

static const struct listener SENDING = {send_accepted, send_refused, nothing_arrives,
                                        nothing_fetched};

void load_send(const struct options *o) {
    struct connection *connections[CONNECTIONS_MAX];
    run.o = o;
    run.warm = (o->warm + o->batch - 1) / o->batch;
    run.target = run.warm + (o->count + o->batch - 1) / o->batch;
    const char *address = declared(o);
    o->dialect->compose(o);
    for (unsigned number = 0; number < o->connections; number++) {
        struct connection *c = connections[number] = open_or_die(o, number, address);
        done_or_die(c->dialect->attach_publisher(c, o, deadline_ns(o)), c);
        c->listener = &SENDING;
        loop_add(c);
    }
    turn_ns = run.progress_ns = clock_ns();
    figures_begin(&run.figures, turn_ns);
    while (run.accepted < run.target) {
        for (unsigned number = 0; number < o->connections; number++)
            send_more(connections[number]);
        loop_turn(turn_ns + timeout_ns() + MS);
        for (unsigned number = 0; number < o->connections; number++)
            stop_if_stuck(connections[number]);
    }
    figures_print(&run.figures, o, "");
    for (unsigned number = 0; number < o->connections; number++)
        connection_close(connections[number]);
}

/* -- drain: what is stored -------------------------------------------------------------------- */

static void drain_arrived(struct connection *c, const uint8_t *body, size_t size) {
    (void)c, (void)body;
    run.progress_ns = turn_ns;
    if (run.arrived++ >= run.target) /* of the last answer more may come than was asked for */
        return;
    run.figures.count++;
    run.figures.bytes += size;
    if (run.arrived == run.target)
        figures_end(&run.figures, turn_ns);
}

static void drain_fetched(struct connection *c, int64_t took_ns) {
    (void)c;
    histogram_add(&run.figures.latencies, took_ns);
}

static void consume_refused(struct connection *c, uint64_t id, const char *why) {
    (void)id;
    count_refusal(c, why);
}

static void nothing_accepted(struct connection *c, uint64_t id) { (void)c, (void)id; }

static const struct listener DRAINING = {nothing_accepted, consume_refused, drain_arrived,
                                         drain_fetched};

void load_drain(const struct options *o) {
    run.o = o;
    run.target = o->count;
    struct connection *c = open_or_die(o, 0, o->addresses[0]);
    if (c->dialect->leader) {
        const char *leader = c->dialect->leader(c, o, deadline_ns(o));
        if (leader) {
            connection_close(c);
            c = open_or_die(o, 0, leader);
        }
    }
    done_or_die(c->dialect->attach_consumer(c, o, -1, deadline_ns(o)), c);
    c->listener = &DRAINING;
    turn_ns = run.progress_ns = clock_ns();
    figures_begin(&run.figures, turn_ns);
    c->dialect->consume(c);
    loop_add(c);
    while (run.arrived < run.target) {
        loop_turn(turn_ns + timeout_ns() + MS);
        stop_if_stuck(c);
    }
    done_or_die(c->dialect->finish_consumer(c, deadline_ns(o)), c);
    figures_print(&run.figures, o, "");
    connection_close(c);
}

/* -- e2e: an open loop and its consumers ------------------------------------------------------ */

static struct {
    uint64_t run, total, warm, delivered, wanted, duplicates;
    int64_t first_due_ns;
    double interval_ns;
    uint8_t *seen; /* a bit for each message of each group */
} e2e;

static int64_t due_ns(uint64_t sequence) {
    return e2e.first_due_ns + (int64_t)((double)sequence * e2e.interval_ns);
}

static void e2e_accepted(struct connection *c, uint64_t id) {
    int64_t began_ns;
    if (!window_settle(&c->window, id, &began_ns))
        die("%s: accepts request %" PRIu64 ", which is not under way", c->address, id);
    run.progress_ns = turn_ns;
    run.accepted++;
}

static void e2e_refused(struct connection *c, uint64_t id, const char *why) {
    int64_t began_ns;
    if (window_settle(&c->window, id, &began_ns))
        e2e.wanted -= run.o->groups; /* this one will not come */
    count_refusal(c, why);
}

static void e2e_arrived(struct connection *c, const uint8_t *body, size_t size) {
    struct stamp stamp;
    if (!stamp_read(&stamp, body, size) || stamp.run != e2e.run || stamp.sequence >= e2e.total)
        return;
    uint64_t bit = (uint64_t)(c->number - 1) * e2e.total + stamp.sequence;
    if (e2e.seen[bit / 8] & 1 << bit % 8) {
        e2e.duplicates++;
        return;
    }
    e2e.seen[bit / 8] |= (uint8_t)(1 << bit % 8);
    run.arrived++;
    run.progress_ns = turn_ns; /* what has come before is none, or it might go on for ever */
    if (stamp.sequence < e2e.warm)
        return;
    e2e.delivered++;
    run.figures.bytes += size;
    histogram_add(&run.figures.latencies, turn_ns - stamp.due_ns);
    run.figures.ended_ns = turn_ns;
}

static const struct listener PUBLISHING = {e2e_accepted, e2e_refused, nothing_arrives,
                                           nothing_fetched};
static const struct listener CONSUMING = {nothing_accepted, consume_refused, e2e_arrived,
                                          nothing_fetched};

static void publish_due(struct connection *publisher) {
    /* A stalled server is charged from when a message was due, sent or not. */
    while (run.issued < e2e.total && due_ns(run.issued) <= turn_ns &&
           window_has_room(&publisher->window, run.o->in_flight)) {
        struct stamp stamp = {e2e.run, run.issued, due_ns(run.issued)};
        publisher->dialect->publish(publisher, window_open(&publisher->window, turn_ns), &stamp);
        if (run.issued++ == e2e.warm)
            figures_begin(&run.figures, stamp.due_ns);
    }
}

static void e2e_prepare(const struct options *o) {
    e2e.run = (uint64_t)clock_ns() << 16 ^ (uint64_t)getpid();
    e2e.warm = o->warm;
    e2e.total = o->warm + (uint64_t)(o->rate * o->seconds);
    e2e.wanted = e2e.total * o->groups;
    e2e.interval_ns = 1e9 / o->rate;
    if (e2e.total == o->warm)
        die("%g/s for %g s make no message", o->rate, o->seconds);
    if (e2e.wanted > DELIVERIES_MAX)
        die("%" PRIu64 " deliveries: at most %d are told apart", e2e.wanted, DELIVERIES_MAX);
    e2e.seen = calloc(1, e2e.wanted / 8 + 1);
    if (!e2e.seen)
        die("out of memory");
}

void load_e2e(const struct options *given) {
    struct connection *connections[GROUPS_MAX + 1];
    struct options changed = *given, *o = &changed;
    char more[200];
    run.o = o;
    o->in_flight = OPEN_LOOP_BYTES / (unsigned)(o->body_bytes + 1024);
    o->in_flight = o->in_flight < IN_FLIGHT_MAX ? o->in_flight : IN_FLIGHT_MAX;
    e2e_prepare(o);
    const char *address = declared(o);
    o->dialect->compose(o);
    for (unsigned number = 0; number <= o->groups; number++) {
        struct connection *c = connections[number] = open_or_die(o, number, address);
        c->listener = number == 0 ? &PUBLISHING : &CONSUMING;
        turn_ns = clock_ns();
        if (number == 0) {
            done_or_die(c->dialect->attach_publisher(c, o, deadline_ns(o)), c);
        } else {
            done_or_die(c->dialect->attach_consumer(c, o, (int)number - 1, deadline_ns(o)), c);
            c->dialect->consume(c);
        }
        loop_add(c);
    }
    turn_ns = run.progress_ns = clock_ns();
    e2e.first_due_ns = turn_ns + 50 * MS; /* the consumers' first requests are there by then */
    figures_begin(&run.figures, e2e.first_due_ns);
    while (run.arrived < e2e.wanted || run.accepted + run.refused < e2e.total) {
        publish_due(connections[0]);
        int64_t until_ns = turn_ns + timeout_ns() + MS;
        if (run.issued < e2e.total && window_has_room(&connections[0]->window, o->in_flight))
            until_ns = due_ns(run.issued);
        loop_turn(until_ns);
        for (unsigned number = 0; number <= o->groups; number++)
            stop_if_stuck(connections[number]);
    }
    figures_end(&run.figures, run.figures.ended_ns); /* the last arrival */
    run.figures.count = e2e.total - e2e.warm;
    double seconds = (double)(run.figures.ended_ns - run.figures.began_ns) / 1e9;
    snprintf(more, sizeof more,
             ",\"groups\":%u,\"delivered\":%" PRIu64 ",\"delivered_per_s\":%.1f,"
             "\"duplicates\":%" PRIu64,
             o->groups, e2e.delivered, (double)e2e.delivered / seconds, e2e.duplicates);
    for (unsigned number = 1; number <= o->groups; number++)
        done_or_die(o->dialect->finish_consumer(connections[number], deadline_ns(o)),
                    connections[number]);
    figures_print(&run.figures, o, more);
    for (unsigned number = 0; number <= o->groups; number++)
        connection_close(connections[number]);
    free(e2e.seen);
}

/* -- gap: how long nothing is accepted -------------------------------------------------------- */

static const int64_t STEADY_NS = S;             /* accepted for so long without a stop */
static const int64_t PAUSE_NS = 5 * MS;         /* when everybody has refused */
static const int64_t PROBE_NS = 20 * MS;        /* while nothing is accepted, one more send each */
static const int64_t GIVE_UP_NS = S;            /* a request without an answer is sent anew */
static const int64_t LEADER_SILENT_NS = S;      /* after which another one is asked; where any */
static const int64_t SERVER_SILENT_NS = 10 * S; /* node will do, silence is no reason to go, */
static const int64_t REFUSING_NS = 100 * MS;    /* but nothing except refusals is */
static const double OPEN_MAX_S = 3;

static struct {
    struct connection *c;
    unsigned place, failures; /* address in use; addresses in a row that did not do */
    unsigned lost_connections;
    bool declared, steady, moves_on;
    int64_t accepted_ns, longest_ns, steady_from_ns, pause_until_ns, probe_ns, opened_ns;
} gap;

static void gap_accepted(struct connection *c, uint64_t id) {
    int64_t began_ns;
    run.progress_ns = turn_ns;
    gap.failures = 0;
    if (gap.steady) {
        run.figures.count++;
        run.figures.bytes += run.o->body_bytes;
        if (turn_ns - gap.accepted_ns > gap.longest_ns)
            gap.longest_ns = turn_ns - gap.accepted_ns;
    }
    gap.accepted_ns = turn_ns;
    /* One that was given up may be accepted late: it counts, but its time says nothing. */
    if (window_settle(&c->window, id, &began_ns) && gap.steady)
        histogram_add(&run.figures.latencies, turn_ns - began_ns);
}

static void gap_refused(struct connection *c, uint64_t id, const char *why) {
    int64_t began_ns;
    window_settle(&c->window, id, &began_ns);
    connection_fail(c, "%s", why);
    run.figures.refused++;
    gap.steady_from_ns = turn_ns;
    if (c->dialect->leader_only || turn_ns - gap.accepted_ns > REFUSING_NS)
        gap.moves_on = true;
    else
        gap.pause_until_ns = turn_ns + PAUSE_NS;
}

static const struct listener SURVIVING = {gap_accepted, gap_refused, nothing_arrives,
                                          nothing_fetched};

static void gap_next_address(void) {
    gap.place = (gap.place + 1) % run.o->address_count;
    if (++gap.failures % run.o->address_count == 0)
        gap.pause_until_ns = clock_ns() + PAUSE_NS;
}

static void gap_leave(void) {
    connection_close(gap.c);
    gap.c = NULL;
    gap.moves_on = false;
    gap_next_address();
}

static double open_s(void) {
    return run.o->timeout_s < OPEN_MAX_S ? run.o->timeout_s : OPEN_MAX_S;
}

static bool gap_setup(struct connection *c) {
    int64_t until_ns = clock_ns() + (int64_t)(open_s() * 1e9);
    if (!gap.declared && !c->dialect->leader_only) {
        /* Where only the leader takes messages, the first one makes the topic. */
        if (!c->dialect->declare(c, run.o))
            return false;
        gap.declared = true;
    }
    return c->dialect->attach_publisher(c, run.o, until_ns);
}

static void gap_open(char *trouble) {
    struct connection *c =
        connection_open(run.o, 0, run.o->addresses[gap.place], open_s(), trouble);
    if (c && !gap_setup(c)) {
        snprintf(trouble, TROUBLE_MAX, "%s", c->trouble);
        connection_close(c);
        c = NULL;
    }
    if (!c) {
        gap_next_address();
        return;
    }
    gap.c = c;
    c->listener = &SURVIVING;
    gap.opened_ns = turn_ns = clock_ns();
    loop_add(c);
}

static void gap_send(struct connection *c) {
    while (window_has_room(&c->window, run.o->in_flight))
        c->dialect->publish(c, window_open(&c->window, turn_ns), NULL);
    /* A node that lost its leader may have lost what was in flight, and never says so. Without
     * probes the end of the gap would be seen when the first request is given up. */
    if (turn_ns - gap.accepted_ns > PROBE_NS && turn_ns - gap.probe_ns > PROBE_NS &&
        window_has_room(&c->window, UINT32_MAX)) {
        window_forget(&c->window, turn_ns - GIVE_UP_NS);
        c->dialect->publish(c, window_open(&c->window, turn_ns), NULL);
        gap.probe_ns = turn_ns;
    }
}

static void gap_turn(char *trouble) {
    if (!gap.c) {
        int64_t left_ns = gap.pause_until_ns - clock_ns();
        if (left_ns > 0)
            nanosleep(&(struct timespec){.tv_nsec = left_ns}, NULL);
        turn_ns = clock_ns();
        gap_open(trouble);
        return;
    }
    struct connection *c = gap.c;
    if (turn_ns >= gap.pause_until_ns)
        gap_send(c);
    int64_t until_ns = turn_ns + PROBE_NS;
    if (turn_ns < gap.pause_until_ns)
        until_ns = gap.pause_until_ns;
    loop_turn(until_ns);
    int64_t heard_ns = gap.accepted_ns > gap.opened_ns ? gap.accepted_ns : gap.opened_ns;
    int64_t silent_ns = c->dialect->leader_only ? LEADER_SILENT_NS : SERVER_SILENT_NS;
    if (c->lost || gap.moves_on || turn_ns - heard_ns > silent_ns) {
        bool silent = !c->lost && !gap.moves_on;
        snprintf(trouble, TROUBLE_MAX, "%s", silent ? "no answer" : c->trouble);
        gap.lost_connections += c->lost || silent;
        gap.steady_from_ns = turn_ns;
        gap_leave();
    }
}

void load_gap(const struct options *o) {
    char trouble[TROUBLE_MAX] = "", more[200];
    run.o = o;
    o->dialect->compose(o);
    turn_ns = clock_ns();
    int64_t ready_by_ns = turn_ns + timeout_ns(), end_ns = INT64_MAX;
    while (turn_ns < end_ns) {
        gap_turn(trouble);
        if (gap.steady)
            continue;
        if (gap.accepted_ns == 0 || turn_ns - gap.accepted_ns > PROBE_NS * 5)
            gap.steady_from_ns = turn_ns;
        if (turn_ns - gap.steady_from_ns > STEADY_NS) {
            fprintf(stderr, "ready\n");
            gap.steady = true;
            gap.lost_connections = 0;
            gap.longest_ns = 0;
            gap.accepted_ns = turn_ns;
            figures_begin(&run.figures, turn_ns);
            end_ns = turn_ns + (int64_t)(o->seconds * 1e9);
        } else if (turn_ns > ready_by_ns) {
            die("not steady within %g s; the last trouble with %s: %s", o->timeout_s,
                o->addresses[gap.place], trouble[0] ? trouble : "no answer");
        }
    }
    figures_end(&run.figures, turn_ns);
    /* A gap that has not ended is as long as it has lasted. */
    if (turn_ns - gap.accepted_ns > gap.longest_ns)
        gap.longest_ns = turn_ns - gap.accepted_ns;
    snprintf(more, sizeof more, ",\"gap_ms\":%.3f,\"lost_connections\":%u",
             (double)gap.longest_ns / 1e6, gap.lost_connections);
    figures_print(&run.figures, o, more);
    if (gap.c)
        connection_close(gap.c);
}

/* -- prepare ---------------------------------------------------------------------------------- */

void load_prepare(const struct options *o) {
    run.o = o;
    figures_begin(&run.figures, clock_ns());
    declared(o);
    run.figures.count = o->topics;
    figures_end(&run.figures, clock_ns());
    figures_print(&run.figures, o, "");
}

/* Latencies, rates and the processor time of this process. */

#include "generator.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* Values below 512 ns have a bucket each; above, each power of two is cut into 256. */
static unsigned bucket_of(uint64_t value) {
    if (value < 512)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - 8;
    unsigned bucket = (shift << 8) + (unsigned)(value >> shift);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The middle of a bucket. */
static int64_t value_of(unsigned bucket) {
    if (bucket < 512)
        return bucket;
    unsigned shift = (bucket >> 8) - 1;
    uint64_t low = (uint64_t)(bucket - (shift << 8)) << shift;
    return (int64_t)(low + ((1ull << shift) >> 1));
}

void histogram_add(struct histogram *h, int64_t latency_ns) {
    if (latency_ns < 0)
        latency_ns = 0;
    h->buckets[bucket_of((uint64_t)latency_ns)]++;
    h->count++;
    if (latency_ns > h->max_ns)
        h->max_ns = latency_ns;
}

int64_t histogram_at(const struct histogram *h, double share) {
    uint64_t wanted = (uint64_t)((double)h->count * share), seen = 0;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += h->buckets[bucket];
        if (seen > wanted)
            return value_of(bucket) < h->max_ns ? value_of(bucket) : h->max_ns;
    }
    return h->max_ns;
}

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void figures_begin(struct figures *f, int64_t now_ns) {
    memset(f, 0, sizeof *f);
    f->began_ns = f->ended_ns = now_ns;
    f->cpu_began_s = f->cpu_ended_s = cpu_s();
}

void figures_end(struct figures *f, int64_t now_ns) {
    f->ended_ns = now_ns;
    f->cpu_ended_s = cpu_s();
}

void figures_print(const struct figures *f, const struct options *o, const char *more) {
    const struct histogram *h = &f->latencies;
    double seconds = (double)(f->ended_ns - f->began_ns) / 1e9;
    printf("{\"dialect\":\"%s\",\"load\":\"%s\",\"count\":%" PRIu64 ",\"seconds\":%.6f,"
           "\"per_s\":%.1f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"p999_ms\":%.4f,\"max_ms\":%.4f,"
           "\"client_cpu_s\":%.6f,\"refused\":%" PRIu64 ",\"bytes\":%" PRIu64 "%s}\n",
           o->dialect->name, o->load, f->count, seconds,
           seconds > 0 ? (double)f->count / seconds : 0.0, (double)histogram_at(h, 0.5) / 1e6,
           (double)histogram_at(h, 0.99) / 1e6, (double)histogram_at(h, 0.999) / 1e6,
           (double)h->max_ns / 1e6, f->cpu_ended_s - f->cpu_began_s, f->refused, f->bytes, more);
    if (fflush(stdout) != 0)
        die("cannot write the figures");
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU clocks and the report. The CPU of another process is read from its process CPU clock: nanoseconds, all threads,
 * also those that have ended; the same figure that schedstat adds up, in one system call whatever the thread count.
 */
#include "load.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

uint64_t load_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t cpu_of(const pid_t *pids, unsigned n)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        clockid_t clock;
        struct timespec ts;

        if (clock_getcpuclockid(pids[i], &clock) == 0 && clock_gettime(clock, &ts) == 0)
            sum += (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
    }
    return sum;
}

/* The machine's busy time, so that the reader sees whether somebody else was at work too. */
static void machine_time(uint64_t *busy, uint64_t *steal)
{
    unsigned long long v[8] = {0};
    uint64_t tick = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);
    FILE *f = fopen("/proc/stat", "r");

    if (!f)
        return;
    if (fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6],
               &v[7]) == 8) {
        *busy = (v[0] + v[1] + v[2] + v[5] + v[6]) * tick;
        *steal = v[7] * tick;
    }
    fclose(f);
}

void load_mark(load_t *l, load_mark_t *m)
{
    pid_t self = getpid();

    m->at = load_now();
    m->server = cpu_of(l->opt.server_pids, l->opt.n_server_pids);
    m->upstream = cpu_of(l->opt.upstream_pids, l->opt.n_upstream_pids);
    m->self = cpu_of(&self, 1);
    machine_time(&m->busy, &m->steal);
    m->tokens = l->tokens;
    m->events = l->events;
    m->bytes = l->bytes;
}

static void print_hist(const char *name, const hist_t *h)
{
    printf("\"%s\":{\"count\":%llu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f},",
           name, (unsigned long long)h->count, h->count ? (double)h->sum / (double)h->count / 1e3 : 0.0,
           (double)hist_quantile(h, 0.5) / 1e3, (double)hist_quantile(h, 0.9) / 1e3,
           (double)hist_quantile(h, 0.99) / 1e3, (double)hist_quantile(h, 0.999) / 1e3, (double)h->max / 1e3);
}

static void print_counts(const load_t *l)
{
    const struct {
        const char *name;
        uint64_t value;
    } c[] = {
        {"opened", l->opened}, {"open_now", l->open_now}, {"completed", l->completed}, {"failed", l->failed},
        {"fail_connect", l->fail_connect}, {"fail_status", l->fail_status}, {"fail_short", l->fail_short},
        {"fail_cut", l->fail_cut}, {"fail_marker", l->fail_marker}, {"unfinished", load_conns_unfinished(l)},
        {"connects", l->connects}, {"retried", l->retried},
        {"tokens_total", l->tokens}, {"events_total", l->events}, {"bytes_total", l->bytes},
    };

    for (unsigned i = 0; i < sizeof(c) / sizeof(c[0]); i++)
        printf("\"%s\":%llu,", c[i].name, (unsigned long long)c[i].value);
}

static void print_quoted(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            putchar('\\');
        putchar((unsigned char)*s < 0x20 ? ' ' : *s);
    }
    putchar('"');
}

void load_report(load_t *l, const char *state)
{
    static const char *const modes[] = {"steady", "burst", "idle"};
    const load_mark_t *a = &l->from, *b = &l->to;
    double s = (double)(b->at - a->at) / 1e9;
    double full = l->opt.rate * l->opt.conns * s;

    printf("{\"state\":\"%s\",\"mode\":\"%s\",\"conns\":%u,\"each\":%u,\"seconds\":%.4f,", state, modes[l->opt.mode],
           l->opt.conns, l->opt.each, s);
    print_counts(l);
    printf("\"tokens\":%llu,\"events\":%llu,\"bytes\":%llu,", (unsigned long long)(b->tokens - a->tokens),
           (unsigned long long)(b->events - a->events), (unsigned long long)(b->bytes - a->bytes));
    if (s > 0)
        printf("\"tokens_per_s\":%.1f,", (double)(b->tokens - a->tokens) / s);
    if (full > 0)
        printf("\"rate_held\":%.4f,", (double)(b->tokens - a->tokens) / full);
    print_hist("delay_us", &l->delay);
    print_hist("whole_us", &l->whole);
    printf("\"cpu_ns\":{\"server\":%llu,\"upstream\":%llu,\"client\":%llu,\"machine\":%llu,\"steal\":%llu},",
           (unsigned long long)(b->server - a->server), (unsigned long long)(b->upstream - a->upstream),
           (unsigned long long)(b->self - a->self), (unsigned long long)(b->busy - a->busy),
           (unsigned long long)(b->steal - a->steal));
    printf("\"first_failure\":");
    print_quoted(l->first_failure);
    printf("}\n");
    fflush(stdout);
}

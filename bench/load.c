/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chatstream-load: opens many SSE streams, checks every one of them, and prints one line of JSON.
 *
 *     chatstream-load --to 127.0.0.1:8080 --path '/sse?tokens=600&rate=50&stamp=1' --expect 600
 *                     --streams 500 --ramp 1 --settle 0.5 --seconds 10 --rate-of-upstream 50
 *     chatstream-load --to … --path … --expect 20 --clients 100 --count 50
 *     chatstream-load --to … --path … --idle 6000             (holds until stdin is closed or SIGTERM)
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

static volatile sig_atomic_t stop_asked;

static const char usage_text[] =
    "usage: chatstream-load --to ADDR:PORT --path PATH MODE [options]\n"
    "modes:    --streams N             N streams at once, a measured window of --seconds in the middle\n"
    "          --clients N --count M   N clients, each M streams one after the other\n"
    "          --idle N                N streams, held until stdin is closed or SIGTERM\n"
    "options:  --expect TOKENS         stamped tokens every stream must have\n"
    "          --end-marker TEXT       must appear in every stream before its end\n"
    "          --header 'NAME: VALUE'  one more request header\n"
    "          --fresh                 a new connection for every stream\n"
    "          --rate-of-upstream R    tokens/s per stream, to report how much of it was held\n"
    "          --ramp S --settle S --seconds S --timeout S\n"
    "          --sources N             local addresses 127.0.0.2 and up (default 8)\n"
    "          --cpu-of PID,…          the server's processes; --upstream-cpu-of PID,…\n";

static void on_signal(int sig)
{
    (void)sig;
    stop_asked = 1;
}

static void die(const char *what, const char *value)
{
    fprintf(stderr, "chatstream-load: %s: %s\n", what, value);
    exit(2);
}

static double seconds_of(const char *s)
{
    char *end;
    double v = strtod(s, &end);

    if (end == s || *end || v < 0)
        die("not a number", s);
    return v;
}

static uint32_t count_of(const char *s)
{
    double v = seconds_of(s);

    if (v > 1e9)
        die("too large", s);
    return (uint32_t)v;
}

static void parse_to(load_opts_t *o, const char *s)
{
    char host[64];
    unsigned port;

    o->to.sin_family = AF_INET;
    if (sscanf(s, "%63[^:]:%u", host, &port) != 2 || port > 65535 || inet_pton(AF_INET, host, &o->to.sin_addr) != 1)
        die("not ADDR:PORT", s);
    o->to.sin_port = htons((uint16_t)port);
}

static unsigned parse_pids(pid_t *pids, unsigned max, const char *s)
{
    unsigned n = 0;

    for (char *end; *s; s = *end == ',' ? end + 1 : end) {
        long pid = strtol(s, &end, 10);

        if (end == s || n == max || (*end && *end != ','))
            die("not a list of process ids", s);
        pids[n++] = (pid_t)pid;
    }
    return n;
}

enum { O_TO = 1, O_PATH, O_STREAMS, O_CLIENTS, O_COUNT, O_IDLE, O_EXPECT, O_MARKER, O_HEADER, O_RATE, O_RAMP, O_SETTLE,
       O_SECONDS, O_TIMEOUT, O_SOURCES, O_FRESH, O_CPU, O_UPCPU, O_HELP };

static const struct option options[] = {
    {"to", 1, NULL, O_TO}, {"path", 1, NULL, O_PATH}, {"streams", 1, NULL, O_STREAMS},
    {"clients", 1, NULL, O_CLIENTS}, {"count", 1, NULL, O_COUNT}, {"idle", 1, NULL, O_IDLE},
    {"expect", 1, NULL, O_EXPECT}, {"end-marker", 1, NULL, O_MARKER}, {"header", 1, NULL, O_HEADER},
    {"rate-of-upstream", 1, NULL, O_RATE}, {"ramp", 1, NULL, O_RAMP}, {"settle", 1, NULL, O_SETTLE},
    {"seconds", 1, NULL, O_SECONDS}, {"timeout", 1, NULL, O_TIMEOUT}, {"sources", 1, NULL, O_SOURCES},
    {"fresh", 0, NULL, O_FRESH}, {"cpu-of", 1, NULL, O_CPU}, {"upstream-cpu-of", 1, NULL, O_UPCPU},
    {"help", 0, NULL, O_HELP}, {NULL, 0, NULL, 0},
};

static void set_mode(load_opts_t *o, load_mode_t mode, const char *arg)
{
    if (o->conns)
        die("one mode only", arg);
    o->mode = mode;
    o->conns = count_of(arg);
}

static void parse_options(load_opts_t *o, int argc, char **argv)
{
    int opt;

    *o = (load_opts_t){.each = 1, .sources = 8, .ramp = 1, .settle = 0.5, .seconds = 10, .timeout = 300};
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (opt) {
        case O_TO:      parse_to(o, optarg); break;
        case O_PATH:    o->path = optarg; break;
        case O_STREAMS: set_mode(o, MODE_STEADY, optarg); break;
        case O_CLIENTS: set_mode(o, MODE_BURST, optarg); break;
        case O_IDLE:    set_mode(o, MODE_IDLE, optarg); break;
        case O_COUNT:   o->each = count_of(optarg); break;
        case O_EXPECT:  o->expect = count_of(optarg); break;
        case O_MARKER:  marker_set(&o->marker, optarg); break;
        case O_HEADER:  o->header = optarg; break;
        case O_RATE:    o->rate = seconds_of(optarg); break;
        case O_RAMP:    o->ramp = seconds_of(optarg); break;
        case O_SETTLE:  o->settle = seconds_of(optarg); break;
        case O_SECONDS: o->seconds = seconds_of(optarg); break;
        case O_TIMEOUT: o->timeout = seconds_of(optarg); break;
        case O_SOURCES: o->sources = count_of(optarg); break;
        case O_FRESH:   o->fresh = true; break;
        case O_CPU:     o->n_server_pids = parse_pids(o->server_pids, 64, optarg); break;
        case O_UPCPU:   o->n_upstream_pids = parse_pids(o->upstream_pids, 16, optarg); break;
        default:
            fputs(usage_text, opt == O_HELP ? stdout : stderr);
            exit(opt == O_HELP ? 0 : 2);
        }
    }
    if (!o->to.sin_port || !o->path || !o->conns || !o->each || !o->sources) {
        fputs(usage_text, stderr);
        exit(2);
    }
    if (o->mode != MODE_BURST)
        o->each = 1;
}

static void make_request(load_t *l)
{
    int n = snprintf(l->request, sizeof(l->request),
                     "GET %s HTTP/1.1\r\nHost: bench.local\r\nAccept: text/event-stream\r\n%s%s%s\r\n", l->opt.path,
                     l->opt.fresh ? "Connection: close\r\n" : "", l->opt.header ? l->opt.header : "",
                     l->opt.header ? "\r\n" : "");

    if (n < 0 || (size_t)n >= sizeof(l->request))
        die("request too long", l->opt.path);
    l->request_len = (size_t)n;
}

static void raise_files(const load_opts_t *o)
{
    struct rlimit lim;

    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
    if (o->conns + 16 > lim.rlim_max)
        die("more connections than the limit on open files allows", "RLIMIT_NOFILE");
}

static void watch_stdin(load_t *l)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    /* Regular files and /dev/null cannot be watched: then only a signal ends the run. */
    if (l->opt.mode == MODE_IDLE)
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &ev);
}

/* Runs the loop until the given time at the latest, or until something was ready. */
static void turn(load_t *l, uint64_t until)
{
    struct epoll_event ev[512];
    uint64_t now = load_now();
    int wait = until > now ? (int)((until - now) / 1000000) + 1 : 0;
    int n = epoll_wait(l->epoll, ev, 512, wait < 100 ? wait : 100);
    char byte[64];

    for (int i = 0; i < n; i++) {
        if (ev[i].data.ptr)
            load_conn_ready(l, ev[i].data.ptr, ev[i].events);
        else if (read(STDIN_FILENO, byte, sizeof(byte)) <= 0)
            stop_asked = 1;
    }
}

static void launch_due(load_t *l, uint64_t start)
{
    double share = l->opt.ramp > 0 ? (double)(load_now() - start) / 1e9 / l->opt.ramp : 1;
    uint32_t due = share >= 1 ? l->opt.conns : (uint32_t)(share * l->opt.conns);

    while (l->launched < due)
        load_conn_launch(l, l->launched);
}

/* Opens everything; back when each stream is open or has failed, or 30 s after the ramp. */
static void ramp_up(load_t *l, uint64_t start, uint64_t deadline)
{
    uint64_t latest = start + (uint64_t)((l->opt.ramp + 30) * 1e9);

    while (!stop_asked && (l->launched < l->opt.conns || l->opened + l->slots_done < l->opt.conns)) {
        uint64_t now = load_now();

        if (now > deadline || now > latest)
            return;
        launch_due(l, start);
        turn(l, now + (l->launched < l->opt.conns ? 1000000 : 100000000));
    }
}

static void run_until(load_t *l, uint64_t until)
{
    while (!stop_asked && l->slots_done < l->opt.conns && load_now() < until)
        turn(l, until);
}

static void run_steady(load_t *l, uint64_t start, uint64_t deadline)
{
    ramp_up(l, start, deadline);
    run_until(l, load_now() + (uint64_t)(l->opt.settle * 1e9));
    load_mark(l, &l->from);
    l->measuring = true;
    run_until(l, l->from.at + (uint64_t)(l->opt.seconds * 1e9));
    load_mark(l, &l->to);
    l->measuring = false;
    run_until(l, deadline);
}

static void run_burst(load_t *l, uint64_t start, uint64_t deadline)
{
    uint64_t settled;

    load_mark(l, &l->from);
    l->measuring = true;
    while (!stop_asked && l->launched < l->opt.conns && load_now() < deadline) {
        launch_due(l, start);
        turn(l, load_now() + 1000000);
    }
    run_until(l, deadline);
    /* What a server does after the last byte (lingering close, records) belongs to the cost of a stream. */
    settled = load_now() + (uint64_t)(l->opt.settle * 1e9);
    while (!stop_asked && load_now() < settled)
        turn(l, settled);
    load_mark(l, &l->to);
    l->to.at = l->last_end > l->from.at ? l->last_end : l->to.at;
}

static void run_idle(load_t *l, uint64_t start, uint64_t deadline)
{
    ramp_up(l, start, deadline);
    run_until(l, load_now() + (uint64_t)(l->opt.settle * 1e9));
    load_mark(l, &l->from);
    l->to = l->from;
    load_report(l, "holding");
    while (!stop_asked && load_now() < deadline)
        turn(l, deadline);
    load_mark(l, &l->to);
}

int main(int argc, char **argv)
{
    static load_t load;
    struct sigaction sa = {.sa_handler = on_signal};
    uint64_t start, deadline;

    parse_options(&load.opt, argc, argv);
    make_request(&load);
    raise_files(&load.opt);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll < 0 || !load_conns_init(&load))
        die("start", strerror(errno));
    watch_stdin(&load);
    start = load_now();
    deadline = start + (uint64_t)(load.opt.timeout * 1e9);
    if (load.opt.mode == MODE_STEADY)
        run_steady(&load, start, deadline);
    else if (load.opt.mode == MODE_BURST)
        run_burst(&load, start, deadline);
    else
        run_idle(&load, start, deadline);
    load_report(&load, "end");
    return load.failed || (load.opt.mode != MODE_IDLE && load_conns_unfinished(&load)) ? 1 : 0;
}

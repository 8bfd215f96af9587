/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log between processes: wake-ups that must not be lost, and children killed at any moment, also inside the locks. After a
 * death and a reap the arena must be whole and, when all is over, empty.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log_fixture.h"

enum { ROUNDS = 100000, DEATHS = 400, CHILDREN = 3 };

static unsigned factor = 1; /* CHATSTREAM_DEATHS: how many times as many */

static pid_t start(void (*run)(cs_log_t *log, void *baton), cs_log_t *log, void *baton)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(log, baton);
        _exit(0);
    }
    return pid;
}

/* 0: it ended by itself, with success. */
static int wait_for(pid_t pid)
{
    int status = -1;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void ignore_mark(void *baton, uint32_t slot)
{
    (void)baton;
    (void)slot;
}

/* ---- wake-ups ---------------------------------------------------------------------------------------------------- */

typedef struct {
    cs_uuid_t id;
    uint32_t writer_slot;
    _Atomic uint64_t read; /* events the reader has had */
    _Atomic int lost;
} ping_t;

/* Reads one event at a time and sleeps in between, on the eventfd alone, as the loop does. */
static void sleepy_reader(cs_log_t *log, void *baton)
{
    ping_t *ping = baton;
    cs_log_ending_t ending;
    cs_cursor_t cursor;
    cs_event_t event;
    uint32_t child;
    uint64_t gap;
    struct pollfd fd = {-1, POLLIN, 0};

    if (cs_log_child_attach(log, &child) || cs_log_open(log, child, &ping->id, "ping", 0, &cursor, &gap)) {
        _exit(1);
    }
    fd.fd = cs_log_child_eventfd(log, child);
    for (;;) {
        cs_read_e got = log_read_one(&cursor, &event, &ending);

        if (got == CS_READ_EVENT) {
            if (event.seq != ping->read + 2) {
                _exit(2);
            }
            ping->read++;
        }
        else if (got != CS_READ_EMPTY) {
            break;
        }
        else if (cs_log_want_wake(&cursor)) {
            if (poll(&fd, 1, 10000) != 1) {
                ping->lost = 1;
                _exit(3);
            }
            cs_log_child_drain(log, child, ignore_mark, NULL);
        }
    }
    cs_log_cursor_close(&cursor);
    cs_log_child_detach(log, child);
}

/*
 * The writer says one thing and waits until the reader has it: each round is a race between going to sleep and being woken. The
 * log is small, so the reader wakes the writer now and then, too.
 */
static void test_wake_up(void)
{
    ping_t *ping = mmap(NULL, sizeof(*ping), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cs_log_t *log = log_make(4, 3, 64);
    cs_log_spec_t spec = log_spec("ping");
    cs_cursor_t cursor;
    uint32_t child, slot;
    uint64_t round, rounds = ROUNDS * factor;
    pid_t pid;

    cs_log_child_attach(log, &child);
    spec.replay_bytes = 4096;
    ping->id = spec.id;
    slot = log_stream(log, child, &spec, &cursor);
    pid = start(sleepy_reader, log, ping);
    while (cs_log_readers(log, slot) < 2 && !waitpid(pid, NULL, WNOHANG)) {
        usleep(1000);
    }
    cs_log_cursor_close(&cursor);
    for (round = 0; round < rounds && !ping->lost; round++) {
        while (!cs_log_has_room(log, slot)) {
            struct pollfd fd = {cs_log_child_eventfd(log, child), POLLIN, 0};

            if (poll(&fd, 1, 10000) != 1) {
                ping->lost = 2;
                break;
            }
            cs_log_child_drain(log, child, ignore_mark, NULL);
        }
        log_append(log, slot, round, round % 40);
        cs_log_publish(log, slot);
        /* Now and then it runs ahead until the log is full. */
        while (round % 64 < 40 && ping->read <= round && !ping->lost) {
            if (round % 3 == 0) {
                usleep(0);
            }
        }
    }
    log_complete(log, slot);
    is_int(ping->lost, 0, "no wake-up is lost in %d rounds (1: the reader's, 2: the writer's)", (int)rounds);
    is_int(wait_for(pid), 0, "the reader ends well");
    is_int(ping->read, rounds, "it has every event");
    cs_log_child_detach(log, child);
    cs_log_reap(log, cs_clock_mono() + apr_time_from_sec(1000));
    is_empty(log, "wake-up");
    cs_log_destroy(log);
    munmap(ping, sizeof(*ping));
}

/* ---- deaths ------------------------------------------------------------------------------------------------------ */

typedef struct {
    cs_uuid_t ids[8]; /* streams somebody began lately; torn ids are unknown ids */
    _Atomic unsigned next;
    _Atomic unsigned done;
} board_t;

/* Streams of all kinds, as fast as it can, until it is killed. Everything that takes a lock is in here. */
static void busy(cs_log_t *log, void *baton)
{
    board_t *board = baton;
    cs_log_ending_t failed = {.state = CS_STATE_ERROR, .code = "x"};
    unsigned seed = (unsigned)getpid();
    uint32_t child;

    if (cs_log_child_attach(log, &child)) {
        _exit(4);
    }
    for (;;) {
        cs_log_spec_t spec = log_spec("busy");
        cs_cursor_t cursor, other = {.slot = CS_LOG_NONE};
        unsigned events = (unsigned)rand_r(&seed) % 60, i;
        cs_read_e last;
        cs_state_e state;
        uint32_t slot;
        uint64_t gap;

        spec.idem_key = rand_r(&seed) % 2 ? "key" : NULL;
        spec.replay_bytes = 4096u << rand_r(&seed) % 4;
        spec.replay_keep = apr_time_from_msec(rand_r(&seed) % 50);
        slot = log_stream(log, child, &spec, &cursor);
        if (slot != CS_LOG_NONE) {
            board->ids[board->next++ % 8] = spec.id;
        }
        for (i = 0; slot != CS_LOG_NONE && i < events; i++) {
            if (cs_log_has_room(log, slot)) {
                log_append(log, slot, i, (size_t)rand_r(&seed) % 5000);
                cs_log_publish(log, slot);
            }
            if (rand_r(&seed) % 3) {
                log_read_all(&cursor, &last);
            }
        }
        if (cs_log_open(log, child, &board->ids[rand_r(&seed) % 8], "busy", rand_r(&seed) % 30, &other, &gap)
            == CS_OPEN_OK) {
            log_read_all(&other, &last);
            cs_log_want_wake(&other);
        }
        cs_log_cancel(log, &board->ids[rand_r(&seed) % 8], "busy", &state);
        if (slot != CS_LOG_NONE) {
            if (rand_r(&seed) % 3) {
                log_complete(log, slot);
            }
            else {
                cs_log_end(log, slot, &failed, CS_LOG_FORGET);
            }
            cs_log_cursor_close(&cursor);
        }
        else if (cursor.log == log) {
            cs_log_cursor_close(&cursor); /* joined */
        }
        cs_log_cursor_close(&other);
        cs_log_child_drain(log, child, ignore_mark, NULL);
        board->done++;
    }
}

static void test_deaths(void)
{
    board_t *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cs_log_t *log = log_make(6, CHILDREN + 1, 150);
    unsigned deaths, seed = (unsigned)time(NULL), invalid = 0, unexpected = 0, lost = 0, leaked = 0;
    pid_t pids[CHILDREN];
    char why[200];
    int i, status;

    printf("# seed %u\n", seed);
    for (i = 0; i < CHILDREN; i++) {
        pids[i] = start(busy, log, board);
    }
    for (deaths = 0; deaths < DEATHS * factor && !invalid && !unexpected; deaths++) {
        int all = deaths % 20 == 19;

        usleep((useconds_t)(rand_r(&seed) % 4000));
        /* Now and then all of them, so that there is a quiet moment to look at the arena. */
        for (i = 0; i < CHILDREN; i++) {
            if (all || i == (int)(deaths % CHILDREN)) {
                kill(pids[i], SIGKILL);
                waitpid(pids[i], &status, 0);
                unexpected += !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
            }
        }
        lost += cs_log_reap(log, cs_clock_mono());
        if (all) {
            cs_log_usage_t usage;

            cs_log_reap(log, cs_clock_mono());
            if (cs_log_validate(log, why, sizeof(why))) {
                printf("#   death %u: %s\n", deaths, why);
                invalid++;
            }
            cs_log_reap(log, cs_clock_mono() + apr_time_from_sec(1000));
            usage = log_usage(log);
            if (usage.live || usage.kept || usage.children || usage.blocks_free != usage.blocks) {
                printf("#   death %u: %u live, %u kept, %u children, %u of %u blocks\n", deaths, usage.live, usage.kept,
                       usage.children, usage.blocks_free, usage.blocks);
                leaked++;
            }
        }
        for (i = 0; i < CHILDREN; i++) {
            if (all || i == (int)(deaths % CHILDREN)) {
                pids[i] = start(busy, log, board);
            }
        }
    }
    for (i = 0; i < CHILDREN; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    printf("# %u streams, %u lost by %u deaths\n", board->done, lost, deaths);
    is_int(unexpected, 0, "no child ends but by our hand");
    is_int(invalid, 0, "the arena is whole after every reap");
    is_int(leaked, 0, "nothing is left when all have died");
    ok(lost > 0 && board->done > deaths, "there was something to lose");
    cs_log_reap(log, cs_clock_mono() + apr_time_from_sec(1000));
    cs_log_reap(log, cs_clock_mono() + apr_time_from_sec(2000));
    is_empty(log, "deaths");
    cs_log_destroy(log);
    munmap(board, sizeof(*board));
}

/* ---- what a reader learns of it ---------------------------------------------------------------------------------- */

static void short_lived(cs_log_t *log, void *baton)
{
    board_t *board = baton;
    cs_log_spec_t spec = log_spec("lost");
    cs_cursor_t cursor;
    uint32_t child, slot;

    cs_log_child_attach(log, &child);
    slot = log_stream(log, child, &spec, &cursor);
    log_append(log, slot, 0, 3000);
    cs_log_cursor_close(&cursor);
    board->ids[0] = spec.id;
    board->next = 1;
    for (;;) {
        pause();
    }
}

static void test_worker_lost(void)
{
    board_t *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cs_log_t *log = log_make(4, 2, 0);
    cs_log_ending_t ending;
    cs_cursor_t cursor;
    cs_event_t event;
    struct pollfd fd = {-1, POLLIN, 0};
    uint32_t child;
    uint64_t gap;
    pid_t pid;

    cs_log_child_attach(log, &child);
    fd.fd = cs_log_child_eventfd(log, child);
    pid = start(short_lived, log, board);
    while (!board->next) {
        usleep(1000);
    }
    is_int(cs_log_open(log, child, &board->ids[0], "lost", 0, &cursor, &gap), CS_OPEN_OK,
           "a reader in another process");
    ok(log_read_one(&cursor, &event, &ending) == CS_READ_EVENT && log_is(&event, 0, 3000), "reads what there is");
    is_int(log_read_one(&cursor, &event, &ending), CS_READ_EMPTY, "and waits");
    is_int(cs_log_want_wake(&cursor), 1, "for a wake-up");
    is_int(cs_log_reap(log, cs_clock_mono()), 0, "nobody has died yet");
    kill(pid, SIGKILL);
    is_int(poll(&fd, 1, 0), 0, "nobody tells it");
    while (!cs_log_reap(log, cs_clock_mono())) {
        usleep(1000); /* a zombie counts as dead, but dying takes a moment */
    }
    is_int(poll(&fd, 1, 0), 1, "until somebody reaps");
    cs_log_child_drain(log, child, ignore_mark, NULL);
    is_int(log_read_one(&cursor, &event, &ending), CS_READ_ENDED, "then it reads the end");
    is_str(ending.code, "worker_lost", "which says why");
    ok(ending.retryable, "and that asking again may help");
    cs_log_cursor_close(&cursor);
    is_int(cs_log_reap(log, cs_clock_mono() + apr_time_from_sec(5)), 0, "five seconds later");
    is_empty(log, "a lost stream");
    wait_for(pid);
    cs_log_destroy(log);
    munmap(board, sizeof(*board));
}

int main(void)
{
    const char *asked = getenv("CHATSTREAM_DEATHS");

    factor = asked && atoi(asked) > 0 ? (unsigned)atoi(asked) : 1;
    test_worker_lost();
    test_wake_up();
    test_deaths();
    return done_testing();
}

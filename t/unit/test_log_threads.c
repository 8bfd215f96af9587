/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log between threads: one writes, others read, open, close, count and reap beside them. Says little by itself; it is for
 * -fsanitize=thread and for valgrind's helgrind and drd, and for what a data race makes of an event.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "log_fixture.h"

enum { STREAMS = 40, EVENTS = 400, READERS = 3 };

static struct {
    cs_log_t *log;
    uint32_t owner, reader;
    cs_log_spec_t specs[STREAMS];
    _Atomic int created, ended;
    _Atomic int wrong, events, gaps, lagged;
} test;

static size_t len_of(uint64_t number)
{
    return number % 97 * 11;
}

static void *writer(void *arg)
{
    int i, k;

    (void)arg;
    for (i = 0; i < STREAMS; i++) {
        cs_cursor_t cursor;
        uint32_t slot;

        test.specs[i] = log_spec(i % 2 ? "odd" : "even");
        test.specs[i].replay_bytes = 16384;
        slot = log_stream(test.log, test.owner, &test.specs[i], &cursor);
        atomic_store(&test.created, i + 1);
        for (k = 0; k < EVENTS; k++) {
            int patience = 2000;

            while (!cs_log_has_room(test.log, slot) && patience--) {
                sched_yield();
            }
            test.wrong += log_append(test.log, slot, (uint64_t)k, len_of((uint64_t)k)) != APR_SUCCESS;
            cs_log_publish(test.log, slot);
            if (k == 20) {
                for (patience = 20000; patience && cs_log_readers(test.log, slot) < 3; patience--) {
                    sched_yield();
                }
                cs_log_cursor_close(&cursor); /* from now on the others alone hold it up */
            }
        }
        log_complete(test.log, slot);
        atomic_store(&test.ended, i + 1);
    }
    return NULL;
}

/* Reads one stream from its beginning to its end, coming back where it is left behind. */
static void follow(const cs_log_spec_t *spec)
{
    cs_log_ending_t ending;
    cs_cursor_t cursor;
    cs_event_t event;
    uint64_t gap, seq = 0;
    cs_open_e opened;

    while ((opened = cs_log_open(test.log, test.reader, &spec->id, spec->user, seq, &cursor, &gap)) == CS_OPEN_OK) {
        cs_read_e got;

        test.gaps += gap != 0;
        do {
            got = cs_log_read_begin(&cursor);
            while (got != CS_READ_LAGGED && (got = cs_log_read(&cursor, &event, &ending)) == CS_READ_EVENT) {
                test.wrong += !log_is(&event, event.seq - 2, len_of(event.seq - 2));
                test.wrong += seq && !gap && event.seq != seq + 1;
                gap = 0;
                seq = event.seq;
                test.events++;
            }
            if (got != CS_READ_LAGGED) {
                cs_log_read_end(&cursor);
            }
            if (got == CS_READ_EMPTY && cs_log_want_wake(&cursor)) {
                sched_yield();
            }
        } while (got == CS_READ_EMPTY);
        cs_log_cursor_close(&cursor);
        if (got == CS_READ_ENDED) {
            test.wrong += seq != EVENTS + 1;
            return;
        }
        test.lagged++;
    }
    /* Lagged just before the end: its last event may have been the last of all. */
    test.wrong += opened != CS_OPEN_SEEN;
}

static void *reader(void *arg)
{
    int i;

    (void)arg;
    for (i = 0; i < STREAMS; i++) {
        while (atomic_load(&test.created) <= i) {
            sched_yield();
        }
        follow(&test.specs[i]);
    }
    return NULL;
}

static void drained(void *baton, uint32_t slot)
{
    (void)baton;
    test.wrong += slot >= cs_log_slots(test.log);
}

static void *meddler(void *arg)
{
    (void)arg;
    while (atomic_load(&test.ended) < STREAMS) {
        test.wrong += log_usage(test.log).live > STREAMS;
        test.wrong += cs_log_count_user(test.log, "odd") > STREAMS;
        cs_log_reap(test.log, cs_clock_mono());
        cs_log_child_drain(test.log, test.owner, drained, NULL);
        cs_log_child_drain(test.log, test.reader, drained, NULL);
        sched_yield();
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[READERS + 2];
    int i;

    test.log = log_make(STREAMS, 2, 600);
    cs_log_child_attach(test.log, &test.owner);
    cs_log_child_attach(test.log, &test.reader);
    pthread_create(&threads[0], NULL, writer, NULL);
    pthread_create(&threads[1], NULL, meddler, NULL);
    for (i = 0; i < READERS; i++) {
        pthread_create(&threads[i + 2], NULL, reader, NULL);
    }
    for (i = 0; i < READERS + 2; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("# %d events read, %d times left behind, %d gaps\n", test.events, test.lagged, test.gaps);
    is_int(test.wrong, 0, "every event read by threads is whole and in its place");
    ok(test.events >= STREAMS * READERS, "they read something");
    cs_log_child_detach(test.log, test.reader);
    cs_log_reap(test.log, cs_clock_mono() + apr_time_from_sec(1000));
    is_empty(test.log, "after the threads");
    cs_log_destroy(test.log);
    return done_testing();
}

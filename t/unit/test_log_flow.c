/* SPDX-License-Identifier: Apache-2.0 */
/* Backpressure: who pauses whom, who is left behind, who is told when there is room again. */
#include <poll.h>

#include "log_fixture.h"

#define LIMIT  16384u
#define TOKEN  200u
#define RECORD 208u

typedef struct {
    cs_log_t *log;
    uint32_t owner, reader; /* children */
    cs_log_spec_t spec;
    uint32_t slot;
    cs_cursor_t cursor;
    uint64_t written;
} flow_t;

static void begin(flow_t *flow, uint32_t blocks)
{
    memset(flow, 0, sizeof(*flow));
    flow->log = log_make(16, 3, blocks);
    cs_log_child_attach(flow->log, &flow->owner);
    cs_log_child_attach(flow->log, &flow->reader);
    flow->spec = log_spec("flow");
    flow->spec.replay_bytes = LIMIT;
    flow->slot = log_stream(flow->log, flow->owner, &flow->spec, &flow->cursor);
}

static void finish(flow_t *flow)
{
    is_valid(flow->log, "valid at the end");
    cs_log_cursor_close(&flow->cursor);
    log_complete(flow->log, flow->slot);
    cs_log_reap(flow->log, cs_clock_mono() + apr_time_from_sec(1000));
    is_empty(flow->log, "in the end");
    cs_log_destroy(flow->log);
}

/* Writes until there is no room; how many events that were, at most `max`. */
static unsigned fill(flow_t *flow, unsigned max)
{
    unsigned count = 0;

    while (count < max && cs_log_has_room(flow->log, flow->slot)) {
        log_append(flow->log, flow->slot, flow->written++, TOKEN);
        count++;
    }
    return count;
}

static void open_at(flow_t *flow, uint64_t after, cs_cursor_t *cursor)
{
    uint64_t gap;

    ok(cs_log_open(flow->log, flow->reader, &flow->spec.id, "flow", after, cursor, &gap) == CS_OPEN_OK && !gap,
       "a reader after event %d", (int)after);
}

static int read_some(cs_cursor_t *cursor, unsigned count)
{
    cs_log_ending_t ending;
    cs_event_t event;

    while (count && log_read_one(cursor, &event, &ending) == CS_READ_EVENT && log_is(&event, event.seq - 2, TOKEN)) {
        count--;
    }
    return !count;
}

typedef struct {
    uint32_t slot;
    int times;
} marks_t;

static void count_mark(void *baton, uint32_t slot)
{
    marks_t *marks = baton;

    marks->times += slot == marks->slot;
}

/* How often the slot was marked for this child since the last call. */
static int marks_of(flow_t *flow, uint32_t child)
{
    struct pollfd fd = {cs_log_child_eventfd(flow->log, child), POLLIN, 0};
    marks_t marks = {flow->slot, 0};

    if (poll(&fd, 1, 0) == 1) {
        cs_log_child_drain(flow->log, child, count_mark, &marks);
    }
    return marks.times;
}

static void test_pause(void)
{
    flow_t flow;
    unsigned count;

    begin(&flow, 64);
    marks_of(&flow, flow.owner);
    count = fill(&flow, 1000);
    ok(count >= LIMIT / RECORD && count <= LIMIT / RECORD + 1,
       "a reader that does not read stops the writer when the log is full");
    is_int(marks_of(&flow, flow.owner), 0, "nobody has anything to tell the owner");
    ok(read_some(&flow.cursor, 1), "the reader reads one");
    is_int(marks_of(&flow, flow.owner), 1, "the owner is told");
    ok(read_some(&flow.cursor, 20), "and twenty more");
    is_int(marks_of(&flow, flow.owner), 0, "once is enough");
    count = fill(&flow, 1000);
    ok(count >= 20 && count <= 22, "as much room as was read");
    is_int(marks_of(&flow, flow.owner), 0, "full again");
    cs_log_cursor_close(&flow.cursor);
    is_int(marks_of(&flow, flow.owner), 1, "the owner is told when the reader leaves");
    is_int(fill(&flow, 1000), 1000, "without a reader nothing stops the writer");
    finish(&flow);
}

/* The reader stands exactly where the head goes to, or in a block that begins there. */
static void test_following(void)
{
    flow_t flow;
    uint64_t seen = 0;
    int bad = 0, round;

    begin(&flow, 64);
    for (round = 0; round < 3000; round++) {
        unsigned step = 1 + (unsigned)round % 7;

        bad += fill(&flow, step) != step;
        bad += !read_some(&flow.cursor, step);
        seen += step;
        bad += flow.cursor.seq != seen + 1;
    }
    is_int(bad, 0, "a reader that keeps up is never stopped nor left behind");
    ok(log_usage(flow.log).blocks - log_usage(flow.log).blocks_free <= LIMIT / BLOCK_DATA + 3,
       "and the log keeps to its size");
    finish(&flow);
}

static void test_lagging(void)
{
    cs_log_ending_t ending;
    cs_cursor_t fast, again;
    cs_event_t event;
    uint64_t gap;
    flow_t flow;
    int bad = 0, i;

    begin(&flow, 64);
    open_at(&flow, 0, &fast);
    is_int(fill(&flow, 40), 40, "forty events");
    ok(read_some(&flow.cursor, 30) && read_some(&fast, 40), "the slow reader has thirty of them, the fast one all");
    for (i = 0; i < 100; i++) {
        bad += fill(&flow, 2) != 2 || !read_some(&fast, 2);
    }
    is_int(bad, 0, "the slow one stops nobody");
    is_int(log_read_one(&flow.cursor, &event, &ending), CS_READ_LAGGED, "it is left behind");
    is_int(log_read_one(&flow.cursor, &event, &ending), CS_READ_LAGGED, "for good");
    is_int(cs_log_want_wake(&flow.cursor), 0, "and need not wait to hear it");
    is_int(cs_log_open(flow.log, flow.reader, &flow.spec.id, "flow", flow.cursor.seq, &again, &gap), CS_OPEN_OK,
           "it may come back");
    ok(gap > flow.cursor.seq, "and learns what it missed");
    ok(log_read_one(&again, &event, &ending) == CS_READ_EVENT && event.seq == gap + 1, "goes on behind that");
    cs_log_cursor_close(&fast);
    ok(fill(&flow, 1000) < 100, "a lagged cursor is no reader: the one that came back stops the writer, alone");
    cs_log_cursor_close(&again);
    is_int(fill(&flow, 300), 300, "without it the lagged one stops nobody");
    finish(&flow);
}

/* What a reader is at right now stays, whoever is ahead. */
static void test_reading(void)
{
    cs_log_ending_t ending;
    cs_cursor_t fast;
    cs_event_t event;
    flow_t flow;
    int bad = 0, i;

    begin(&flow, 64);
    open_at(&flow, 0, &fast);
    fill(&flow, 1000);
    is_int(cs_log_read_begin(&flow.cursor), CS_READ_EMPTY, "the slow one begins");
    is_int(cs_log_read(&flow.cursor, &event, &ending), CS_READ_EVENT, "and has an event in hand");
    ok(read_some(&fast, LIMIT / RECORD), "the fast one has them all");
    is_int(fill(&flow, 1000), 0, "the writer has to wait for it");
    ok(log_is(&event, 0, TOKEN), "the event is whole");
    marks_of(&flow, flow.owner);
    cs_log_read_end(&flow.cursor);
    is_int(marks_of(&flow, flow.owner), 1, "the owner is told when it is done");
    ok(fill(&flow, 5) == 5, "then there is room");

    /* A reader that is ahead of what goes stops nobody by reading. */
    ok(read_some(&fast, 5), "the fast one has read the rest");
    cs_log_cursor_close(&flow.cursor);
    cs_log_read_begin(&fast);
    for (i = 0; i < 3; i++) {
        bad += !cs_log_has_room(flow.log, flow.slot);
        log_append(flow.log, flow.slot, flow.written++, LIMIT / 4);
    }
    is_int(bad, 0, "one that reads further on does not stand in the way");
    cs_log_read_end(&fast);
    cs_log_cursor_close(&fast);
    finish(&flow);
}

/* Fills the arena until it counts as full, by another stream that is not read. */
static void occupy(flow_t *flow, uint32_t other)
{
    while (log_usage(flow->log).blocks_free >= 64) {
        log_append(flow->log, other, 0, BLOCK_DATA - RECORD_HEAD);
    }
}

static void test_low_arena(void)
{
    cs_cursor_t hog, second;
    cs_log_ending_t ending;
    cs_log_spec_t spec = log_spec("hog");
    cs_event_t event;
    uint64_t gap;
    flow_t flow;

    begin(&flow, 100);
    log_stream(flow.log, flow.owner, &spec, &hog);
    open_at(&flow, 0, &second);
    fill(&flow, 60);
    ok(read_some(&flow.cursor, 60), "a reader has read all");
    ok(read_some(&second, 57), "another nearly all");
    occupy(&flow, hog.slot);
    cs_log_has_room(flow.log, flow.slot);
    ok(log_usage(flow.log).blocks_free >= 64, "replay makes room when the arena is low");
    is_int(log_read_one(&second, &event, &ending), CS_READ_EVENT, "who is only a little behind loses nothing");
    cs_log_cursor_close(&second);
    cs_log_open(flow.log, flow.reader, &flow.spec.id, "flow", 0, &second, &gap);
    ok(gap >= 57, "who comes back from the beginning is told of the gap");
    cs_log_cursor_close(&second);

    occupy(&flow, hog.slot);
    cs_log_has_room(flow.log, flow.slot); /* gives back what it can */
    occupy(&flow, hog.slot);
    is_int(fill(&flow, 10), 0, "a full arena stops the writer, though its own log is nearly empty");
    log_complete(flow.log, hog.slot);
    is_int(fill(&flow, 10), 0, "an ended stream makes no room while it is read");
    cs_log_cursor_close(&hog);
    is_int(fill(&flow, 10), 10, "and does when nobody reads it any more");
    finish(&flow);
}

/* The smallest arena the configuration allows, with every stream there may be: all of them get on. */
static void test_smallest_arena(void)
{
    enum { STREAMS = 16, ROUNDS = 200 };
    cs_log_t *log = log_make(STREAMS, 1, 0);
    cs_cursor_t cursors[STREAMS];
    uint32_t child, i;
    unsigned round, done = 0;

    cs_log_child_attach(log, &child);
    for (i = 0; i < STREAMS; i++) {
        cs_log_spec_t spec = log_spec("small");

        log_stream(log, child, &spec, &cursors[i]);
    }
    for (round = 0; round < ROUNDS; round++) {
        for (i = 0; i < STREAMS; i++) {
            cs_read_e last;

            if (cs_log_has_room(log, cursors[i].slot) && !log_append(log, cursors[i].slot, round, 1500)) {
                done++;
            }
            log_read_all(&cursors[i], &last);
        }
    }
    is_int(done, STREAMS * ROUNDS, "the smallest arena serves as many streams as it was made for");
    is_valid(log, "and is valid");
    for (i = 0; i < STREAMS; i++) {
        cs_log_cursor_close(&cursors[i]);
    }
    cs_log_destroy(log);
}

typedef struct {
    cs_log_hub_t *hub;
    cs_log_watch_t watch;
    struct called *remove;
    int times, mark_again;
} called_t;

struct called {
    called_t on;
};

static void changed(void *baton)
{
    called_t *called = baton;

    called->times++;
    if (called->remove) {
        cs_log_hub_remove(called->hub, &called->remove->on.watch);
    }
    if (called->mark_again) {
        called->mark_again--;
        cs_log_hub_mark(called->hub, called->watch.slot);
    }
}

static void test_hub(void)
{
    flow_t flow;
    cs_log_hub_t *hub;
    struct called watches[4];
    int i;

    begin(&flow, 0);
    cs_log_hub_create(&hub, flow.log, flow.owner);
    memset(watches, 0, sizeof(watches));
    for (i = 0; i < 4; i++) {
        watches[i].on = (called_t){.hub = hub, .watch = {.changed = changed, .slot = flow.slot}};
        watches[i].on.watch.baton = &watches[i].on;
        cs_log_hub_add(hub, &watches[i].on.watch);
    }
    cs_log_hub_mark(hub, flow.slot);
    cs_log_hub_mark(hub, flow.slot);
    cs_log_hub_dispatch(hub);
    ok(watches[0].on.times == 1 && watches[3].on.times == 1, "marked twice, called once, all of them");
    /* Called in the order 3, 2, 1, 0. */
    watches[3].on.remove = &watches[2];
    watches[1].on.remove = &watches[1];
    watches[0].on.mark_again = 2;
    cs_log_hub_mark(hub, flow.slot);
    cs_log_hub_dispatch(hub);
    is_int(watches[2].on.times, 1, "removed by the one before it, it is not called");
    is_int(watches[1].on.times, 2, "one that removes itself is not called again");
    is_int(watches[0].on.times, 4, "one that marks is called again");
    cs_log_hub_remove(hub, &watches[1].on.watch);
    watches[3].on.remove = &watches[0];
    cs_log_hub_mark(hub, flow.slot);
    cs_log_hub_dispatch(hub);
    watches[3].on.remove = &watches[3];
    is_int(watches[0].on.times, 4, "the last one removed");
    cs_log_hub_mark(hub, flow.slot);
    cs_log_hub_dispatch(hub);
    cs_log_hub_mark(hub, flow.slot);
    cs_log_hub_dispatch(hub);
    is_int(watches[3].on.times, 6, "the only one removes itself");
    cs_log_hub_destroy(hub);
    finish(&flow);
}

int main(void)
{
    test_pause();
    test_following();
    test_lagging();
    test_reading();
    test_low_arena();
    test_smallest_arena();
    test_hub();
    return done_testing();
}

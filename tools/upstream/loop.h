/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: file descriptors through epoll, timers on a wheel of one-millisecond slots, and tasks for the next
 * turn. There is one loop, one thread and one process, so the loop itself is not an object. All structs are embedded in
 * what they belong to, so that nothing is allocated per event.
 *
 *     up_loop_init();
 *     thing->source.on_event = thing_on_event;
 *     up_loop_add(fd, EPOLLIN, &thing->source);
 *     up_loop_run();
 */
#ifndef UPSTREAM_LOOP_H
#define UPSTREAM_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UP_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define UP_MS 1000000ULL /* nanoseconds */
#define UP_S  1000000000ULL

typedef struct up_source_t {
    void (*on_event)(struct up_source_t *self, uint32_t events);
} up_source_t;

typedef struct up_timer_t {
    struct up_timer_t *next;
    struct up_timer_t **link; /* what points at this timer; NULL: not set */
    uint64_t tick;
    void (*on_due)(struct up_timer_t *self);
} up_timer_t;

typedef struct up_task_t {
    struct up_task_t *next;
    struct up_task_t **link; /* what points at this task; NULL: not queued */
    void (*run)(struct up_task_t *self);
} up_task_t;

/* false, with errno set, when the kernel has no epoll descriptor left. */
bool up_loop_init(void);

/* Runs until up_loop_stop(). */
void up_loop_run(void);
void up_loop_stop(void);

/* Frees what the loop holds, after it has stopped. */
void up_loop_end(void);

bool up_loop_add(int fd, uint32_t events, up_source_t *source);
bool up_loop_change(int fd, uint32_t events, up_source_t *source);
void up_loop_remove(int fd);

/* CLOCK_MONOTONIC in nanoseconds, now. */
uint64_t up_loop_clock(void);

/* Calls on_due once, at `due` (nanoseconds, up_loop_clock's) or up to two milliseconds later. Setting replaces. */
void up_loop_timer_set(up_timer_t *timer, uint64_t due);
void up_loop_timer_clear(up_timer_t *timer);

/* Calls run once, after the descriptors were looked at again. Queueing what is queued changes nothing. */
void up_loop_task_queue(up_task_t *task);
void up_loop_task_clear(up_task_t *task);

/* Memory that events of this turn may still point at: free() is called for it when the turn is over. */
void up_loop_free_later(void *memory);

#endif

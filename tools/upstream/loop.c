/* SPDX-License-Identifier: Apache-2.0 */
#include "loop.h"

#include "buf.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

/*
 * The wheel: slot i holds the timers whose tick (millisecond of CLOCK_MONOTONIC) is i modulo SLOTS, in no order; a
 * timer further away than a whole round just stays for another one. `used` has a bit for every slot that may hold
 * something, so that the next due slot is found by looking at no more than SLOTS / 64 words.
 */
#define SLOTS  4096
#define EVENTS 512

static int epoll_fd = -1;
static bool running;

static up_timer_t *slots[SLOTS];
static uint64_t used[SLOTS / 64];
static uint64_t tick_done; /* every tick up to and including this one was looked at */

static up_task_t *task_first;
static up_task_t **task_last = &task_first;

static void **graves;
static size_t graves_count;
static size_t graves_cap;

uint64_t up_loop_clock(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UP_S + (uint64_t)ts.tv_nsec;
}

bool up_loop_init(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    tick_done = up_loop_clock() / UP_MS;
    return epoll_fd >= 0;
}

static bool control(int operation, int fd, uint32_t events, up_source_t *source)
{
    struct epoll_event event = {.events = events, .data.ptr = source};

    return epoll_ctl(epoll_fd, operation, fd, &event) == 0;
}

bool up_loop_add(int fd, uint32_t events, up_source_t *source)
{
    return control(EPOLL_CTL_ADD, fd, events, source);
}

bool up_loop_change(int fd, uint32_t events, up_source_t *source)
{
    return control(EPOLL_CTL_MOD, fd, events, source);
}

void up_loop_remove(int fd)
{
    control(EPOLL_CTL_DEL, fd, 0, NULL);
}

void up_loop_timer_clear(up_timer_t *timer)
{
    if (timer->link == NULL) {
        return;
    }
    *timer->link = timer->next;
    if (timer->next != NULL) {
        timer->next->link = timer->link;
    }
    timer->link = NULL;
    timer->next = NULL;
}

static void timer_push(up_timer_t **head, up_timer_t *timer)
{
    timer->next = *head;
    timer->link = head;
    if (timer->next != NULL) {
        timer->next->link = &timer->next;
    }
    *head = timer;
}

void up_loop_timer_set(up_timer_t *timer, uint64_t due)
{
    unsigned slot;

    up_loop_timer_clear(timer);
    timer->tick = (due + UP_MS - 1) / UP_MS;
    if (timer->tick <= tick_done) {
        timer->tick = tick_done + 1;
    }
    slot = timer->tick % SLOTS;
    timer_push(&slots[slot], timer);
    used[slot / 64] |= 1ULL << (slot % 64);
}

/* The due ones are first moved to a list of their own: what is called may set and clear any timer. */
static void fire_slot(unsigned slot, uint64_t now_tick)
{
    up_timer_t *due = NULL;
    up_timer_t *timer = slots[slot];

    while (timer != NULL) {
        up_timer_t *next = timer->next;

        if (timer->tick <= now_tick) {
            up_loop_timer_clear(timer);
            timer_push(&due, timer);
        }
        timer = next;
    }
    if (slots[slot] == NULL) {
        used[slot / 64] &= ~(1ULL << (slot % 64));
    }
    while (due != NULL) {
        timer = due;
        up_loop_timer_clear(timer);
        timer->on_due(timer);
    }
}

static void fire_timers(void)
{
    uint64_t now_tick = up_loop_clock() / UP_MS;

    if (now_tick > tick_done + SLOTS) {
        tick_done = now_tick - SLOTS;
    }
    while (tick_done < now_tick) {
        tick_done++;
        if (used[tick_done % SLOTS / 64] & (1ULL << (tick_done % 64))) {
            fire_slot((unsigned)(tick_done % SLOTS), now_tick);
        }
    }
}

/* Milliseconds until the next slot in use; -1 when the wheel is empty. */
static int next_timeout(void)
{
    uint64_t tick = tick_done + 1;
    uint64_t end = tick + SLOTS;
    uint64_t now;

    while (tick < end) {
        unsigned bit = (unsigned)(tick % 64);
        uint64_t word = used[tick % SLOTS / 64] >> bit;

        if (word != 0) {
            tick += (unsigned)__builtin_ctzll(word);
            break;
        }
        tick += 64 - bit;
    }
    if (tick >= end) {
        return -1;
    }
    now = up_loop_clock();
    return tick * UP_MS <= now ? 0 : (int)((tick * UP_MS - now + UP_MS - 1) / UP_MS);
}

void up_loop_task_queue(up_task_t *task)
{
    if (task->link != NULL) {
        return;
    }
    task->next = NULL;
    task->link = task_last;
    *task_last = task;
    task_last = &task->next;
}

void up_loop_task_clear(up_task_t *task)
{
    if (task->link == NULL) {
        return;
    }
    *task->link = task->next;
    if (task->next != NULL) {
        task->next->link = task->link;
    }
    else {
        task_last = task->link;
    }
    task->link = NULL;
    task->next = NULL;
}

/* What is queued from here on waits for the next turn: a mark at the end says where this turn's tasks stop. */
static void run_tasks(void)
{
    static up_task_t mark;

    if (task_first == NULL) {
        return;
    }
    up_loop_task_queue(&mark);
    while (task_first != &mark) {
        up_task_t *task = task_first;

        up_loop_task_clear(task);
        task->run(task);
    }
    up_loop_task_clear(&mark);
}

void up_loop_free_later(void *memory)
{
    if (graves_count == graves_cap) {
        void **more = up_alloc((graves_cap * 2 + 64) * sizeof *more);
        size_t i;

        for (i = 0; i < graves_count; i++) {
            more[i] = graves[i];
        }
        free(graves);
        graves = more;
        graves_cap = graves_cap * 2 + 64;
    }
    graves[graves_count++] = memory;
}

static void bury(void)
{
    while (graves_count > 0) {
        free(graves[--graves_count]);
    }
}

void up_loop_run(void)
{
    struct epoll_event events[EVENTS];

    running = true;
    while (running) {
        int timeout = task_first != NULL ? 0 : next_timeout();
        int count = epoll_wait(epoll_fd, events, EVENTS, timeout);
        int i;

        for (i = 0; i < count; i++) {
            up_source_t *source = events[i].data.ptr;

            source->on_event(source, events[i].events);
        }
        fire_timers();
        run_tasks();
        bury();
    }
}

void up_loop_end(void)
{
    bury();
    free(graves);
    graves = NULL;
    graves_cap = 0;
    close(epoll_fd);
}

void up_loop_stop(void)
{
    running = false;
}

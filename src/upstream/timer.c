/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "loop.h"

void cs_timer_heap_free(cs_timer_heap_t *timers)
{
    free(timers->heap);
}

static void place(cs_timer_heap_t *timers, cs_timer_t *timer, uint32_t at)
{
    timers->heap[at] = timer;
    timer->index = at + 1;
}

static void sift_up(cs_timer_heap_t *timers, cs_timer_t *timer, uint32_t at)
{
    while (at && timers->heap[(at - 1) / 2]->when > timer->when) {
        place(timers, timers->heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    place(timers, timer, at);
}

static void sift_down(cs_timer_heap_t *timers, cs_timer_t *timer, uint32_t at)
{
    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= timers->count) {
            break;
        }
        if (child + 1 < timers->count && timers->heap[child + 1]->when < timers->heap[child]->when) {
            child++;
        }
        if (timers->heap[child]->when >= timer->when) {
            break;
        }
        place(timers, timers->heap[child], at);
        at = child;
    }
    place(timers, timer, at);
}

void cs_timer_heap_set(cs_timer_heap_t *timers, cs_timer_t *timer, apr_time_t when)
{
    if (timer->index) {
        apr_time_t before = timer->when;

        timer->when = when;
        if (when < before) {
            sift_up(timers, timer, timer->index - 1);
        }
        else {
            sift_down(timers, timer, timer->index - 1);
        }
        return;
    }
    if (timers->count == timers->size) {
        uint32_t size = timers->size ? timers->size * 2 : 256;
        cs_timer_t **heap = realloc(timers->heap, size * sizeof(*heap));

        if (!heap) {
            abort(); /* a stream without its clocks would run for ever; httpd's pools abort here too */
        }
        timers->heap = heap;
        timers->size = size;
    }
    timer->when = when;
    sift_up(timers, timer, timers->count++);
}

void cs_timer_heap_clear(cs_timer_heap_t *timers, cs_timer_t *timer)
{
    cs_timer_t *last;
    uint32_t at;

    if (!timer->index) {
        return;
    }
    at = timer->index - 1;
    timer->index = 0;
    last = timers->heap[--timers->count];
    if (last == timer) {
        return;
    }
    if (at && timers->heap[(at - 1) / 2]->when > last->when) {
        sift_up(timers, last, at);
    }
    else {
        sift_down(timers, last, at);
    }
}

apr_time_t cs_timer_heap_first(const cs_timer_heap_t *timers)
{
    return timers->count ? timers->heap[0]->when : -1;
}

cs_timer_t *cs_timer_heap_due(cs_timer_heap_t *timers, apr_time_t now)
{
    cs_timer_t *timer = timers->count && timers->heap[0]->when <= now ? timers->heap[0] : NULL;

    if (timer) {
        cs_timer_heap_clear(timers, timer);
    }
    return timer;
}

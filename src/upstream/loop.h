/* SPDX-License-Identifier: Apache-2.0 */
/* Timers of the loop: a binary heap of the callers' own structs. Setting a timer later than it stands costs a sift. */
#ifndef CS_UPSTREAM_LOOP_H
#define CS_UPSTREAM_LOOP_H

#include "chatstream/upstream.h"

typedef struct {
    cs_timer_t **heap;
    uint32_t count, size;
} cs_timer_heap_t;

void cs_timer_heap_free(cs_timer_heap_t *timers);
void cs_timer_heap_set(cs_timer_heap_t *timers, cs_timer_t *timer, apr_time_t when);
void cs_timer_heap_clear(cs_timer_heap_t *timers, cs_timer_t *timer);
/* The earliest `when`; -1: none is set. */
apr_time_t cs_timer_heap_first(const cs_timer_heap_t *timers);
/* Takes a timer that is due out of the heap; NULL: none is. */
cs_timer_t *cs_timer_heap_due(cs_timer_heap_t *timers, apr_time_t now);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "layout.h"

struct cs_log_hub_t {
    cs_log_t *log;
    uint32_t child;
    cs_log_watch_t **watches; /* by slot */
    uint64_t *dirty;          /* one bit a slot: it stands in the queue */
    uint32_t *queue;          /* as long as there are slots, so it never overflows */
    uint32_t queued;
    cs_log_watch_t *next; /* while dispatching: the watch after the one that is called */
};

apr_status_t cs_log_hub_create(cs_log_hub_t **out, cs_log_t *log, uint32_t child)
{
    cs_log_hub_t *hub = calloc(1, sizeof(*hub));
    uint32_t slots = log->head->nslots;

    *out = NULL;
    if (!hub) {
        return APR_ENOMEM;
    }
    hub->log = log;
    hub->child = child;
    hub->watches = calloc(slots, sizeof(*hub->watches));
    hub->dirty = calloc((slots + 63) / 64, sizeof(*hub->dirty));
    hub->queue = calloc(slots, sizeof(*hub->queue));
    if (!hub->watches || !hub->dirty || !hub->queue) {
        cs_log_hub_destroy(hub);
        return APR_ENOMEM;
    }
    *out = hub;
    return APR_SUCCESS;
}

void cs_log_hub_destroy(cs_log_hub_t *hub)
{
    if (hub) {
        free(hub->watches);
        free(hub->dirty);
        free(hub->queue);
        free(hub);
    }
}

void cs_log_hub_add(cs_log_hub_t *hub, cs_log_watch_t *watch)
{
    cs_log_watch_t **head = &hub->watches[watch->slot];

    watch->next = *head;
    watch->prev = head;
    if (*head) {
        (*head)->prev = &watch->next;
    }
    *head = watch;
}

void cs_log_hub_remove(cs_log_hub_t *hub, cs_log_watch_t *watch)
{
    if (!watch->prev) {
        return;
    }
    if (hub->next == watch) {
        hub->next = watch->next;
    }
    *watch->prev = watch->next;
    if (watch->next) {
        watch->next->prev = watch->prev;
    }
    watch->next = NULL;
    watch->prev = NULL;
}

void cs_log_hub_mark(cs_log_hub_t *hub, uint32_t slot)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);

    if (hub->watches[slot] && !(hub->dirty[slot / 64] & bit)) {
        hub->dirty[slot / 64] |= bit;
        hub->queue[hub->queued++] = slot;
    }
}

static void mark(void *baton, uint32_t slot)
{
    cs_log_hub_mark(baton, slot);
}

void cs_log_hub_drain(cs_log_hub_t *hub)
{
    cs_log_child_drain(hub->log, hub->child, mark, hub);
}

void cs_log_hub_dispatch(cs_log_hub_t *hub)
{
    while (hub->queued) {
        uint32_t slot = hub->queue[--hub->queued];
        cs_log_watch_t *watch = hub->watches[slot];

        hub->dirty[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
        while (watch) {
            hub->next = watch->next;
            watch->changed(watch->baton);
            watch = hub->next;
        }
        hub->next = NULL;
    }
}

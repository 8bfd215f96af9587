/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layout.h"

#define ARENA_MAGIC       UINT64_C(0x63736172656e6132) /* "csarena2" */
#define BLOCKS_PER_STREAM 2                            /* the least that lets every live stream move */

typedef struct {
    uint32_t nslots, nbuckets, mark_words;
    uint64_t off_children, off_marks, off_heads, off_seen, off_slots, off_blocks;
} plan_t;

static uint64_t align_to(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static void make_plan(plan_t *plan, uint32_t max_streams, uint32_t max_children)
{
    plan->nslots = max_streams * 2; /* as many again for ended streams that can still be resumed */
    plan->nbuckets = 1;
    while (plan->nbuckets < plan->nslots) {
        plan->nbuckets *= 2;
    }
    plan->mark_words = (plan->nslots + 63) / 64;
    plan->off_children = align_to(sizeof(arena_head_t), 64);
    plan->off_marks = align_to(plan->off_children + (uint64_t)max_children * sizeof(child_t), 64);
    plan->off_heads = align_to(plan->off_marks + (uint64_t)max_children * plan->mark_words * sizeof(uint64_t), 64);
    plan->off_seen = align_to(plan->off_heads + 3 * (uint64_t)plan->nbuckets * sizeof(uint32_t), 64);
    plan->off_slots = align_to(plan->off_seen + (uint64_t)SEEN_BUCKETS * SEEN_WAYS * sizeof(uint64_t), 64);
    plan->off_blocks = align_to(plan->off_slots + (uint64_t)plan->nslots * sizeof(slot_t), 4096);
}

uint64_t cs_log_bytes_needed(uint32_t max_streams, uint32_t max_children)
{
    plan_t plan;

    make_plan(&plan, max_streams, max_children);
    /* The reserve on top: without it a small arena would count as full with nothing in it. */
    return plan.off_blocks + ((uint64_t)max_streams * BLOCKS_PER_STREAM + BLOCKS_IN_RESERVE) * BLOCK_SIZE;
}

static void point_into(cs_log_t *log, const plan_t *plan)
{
    log->head = (arena_head_t *)log->base;
    log->children = (child_t *)(log->base + plan->off_children);
    log->marks = (_Atomic uint64_t *)(log->base + plan->off_marks);
    log->id_heads = (uint32_t *)(log->base + plan->off_heads);
    log->user_heads = log->id_heads + plan->nbuckets;
    log->key_heads = log->user_heads + plan->nbuckets;
    log->seen = (_Atomic uint64_t *)(log->base + plan->off_seen);
    log->slots = (slot_t *)(log->base + plan->off_slots);
    log->blocks = log->base + plan->off_blocks;
}

static apr_status_t open_eventfds(cs_log_t *log, uint32_t count)
{
    uint32_t i;

    log->eventfds = malloc(count * sizeof(int));
    if (!log->eventfds) {
        return APR_ENOMEM;
    }
    memset(log->eventfds, 0xff, count * sizeof(int));
    for (i = 0; i < count; i++) {
        log->eventfds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (log->eventfds[i] < 0) {
            return errno;
        }
    }
    return APR_SUCCESS;
}

apr_status_t cs_log_create(cs_log_t **out, const cs_log_geometry_t *geometry)
{
    cs_log_t *log;
    arena_head_t *head;
    plan_t plan;
    apr_status_t rv;

    *out = NULL;
    if (!geometry->max_streams || !geometry->max_children || geometry->max_streams > UINT32_MAX / 4
        || geometry->bytes > SIZE_MAX / 2
        || geometry->bytes < cs_log_bytes_needed(geometry->max_streams, geometry->max_children)) {
        return APR_EINVAL;
    }
    make_plan(&plan, geometry->max_streams, geometry->max_children);
    log = calloc(1, sizeof(*log));
    if (!log) {
        return APR_ENOMEM;
    }
    log->base = mmap(NULL, geometry->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (log->base == MAP_FAILED) {
        rv = errno;
        free(log);
        return rv;
    }
    point_into(log, &plan);
    head = log->head;
    head->bytes = geometry->bytes;
    head->nchildren = geometry->max_children;
    head->max_streams = geometry->max_streams;
    head->nslots = plan.nslots;
    head->nbuckets = plan.nbuckets;
    head->mark_words = plan.mark_words;
    head->nblocks = (uint32_t)((geometry->bytes - plan.off_blocks) / BLOCK_SIZE);
    if ((rv = cs_log_mutex_init(&head->lock)) || (rv = cs_log_mutex_init(&head->pool_lock))
        || (rv = open_eventfds(log, head->nchildren))) {
        cs_log_destroy(log);
        return rv;
    }
    rv = cs_uuid7_make(&head->id, apr_time_now());
    if (rv) {
        cs_log_destroy(log);
        return rv;
    }
    cs_log_slots_init(log);
    cs_log_blocks_init(log);
    head->magic = ARENA_MAGIC;
    *out = log;
    return APR_SUCCESS;
}

void cs_log_destroy(cs_log_t *log)
{
    uint32_t i;

    if (!log) {
        return;
    }
    for (i = 0; log->eventfds && i < log->head->nchildren; i++) {
        if (log->eventfds[i] >= 0) {
            close(log->eventfds[i]);
        }
    }
    free(log->eventfds);
    munmap(log->base, log->head->bytes);
    free(log);
}

int cs_log_has_geometry(const cs_log_t *log, const cs_log_geometry_t *geometry)
{
    return log->head->bytes == geometry->bytes && log->head->max_streams == geometry->max_streams
           && log->head->nchildren == geometry->max_children;
}

void cs_log_arena_id(const cs_log_t *log, cs_uuid_t *id)
{
    *id = log->head->id;
}

uint32_t cs_log_slots(const cs_log_t *log)
{
    return log->head->nslots;
}

void cs_log_usage(cs_log_t *log, cs_log_usage_t *usage)
{
    uint32_t i;

    memset(usage, 0, sizeof(*usage));
    cs_log_lock(log);
    usage->live = log->head->live;
    usage->kept = log->head->kept;
    cs_log_unlock(log);
    usage->max_streams = log->head->max_streams;
    usage->blocks = log->head->nblocks;
    usage->blocks_free = atomic_load(&log->head->blocks_free);
    usage->block_bytes = BLOCK_SIZE;
    for (i = 0; i < log->head->nchildren; i++) {
        usage->children += atomic_load(&log->children[i].pid) != 0;
    }
}

const char *cs_state_name(cs_state_e state)
{
    static const char *const names[] = {"admitted", "connecting", "active",    "completed",
                                        "error",    "timeout",    "cancelled", "disconnected"};

    return (unsigned)state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}

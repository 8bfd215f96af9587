/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "shared.h"

#define CAP_MIN     UINT64_C(64)
#define CAP_MAX     (UINT64_C(1) << 28)
#define ENTRIES_MAX UINT64_C(65536)
#define ENTRIES_MIN (UINT64_C(16) * STRIPES) /* a bucket for each stripe */
#define TABLE_BYTES (UINT64_C(64) << 20)

_Static_assert(ENTRIES_MIN >= (uint64_t)WAYS * STRIPES, "every stripe has a bucket");
_Static_assert(sizeof(rate_head_t) * WAYS % 64 == 0, "buckets begin with a cache line");

static uint64_t entry_bytes(uint64_t cap)
{
    return sizeof(rate_head_t) + cap * sizeof(uint32_t);
}

static uint64_t cap_for(uint32_t rate_max)
{
    uint64_t cap = rate_max ? CAP_MIN : 0;

    while (cap < rate_max) {
        cap *= 2;
    }
    return cap;
}

static uint64_t entries_for(uint64_t cap)
{
    uint64_t entries = cap ? ENTRIES_MAX : 0;

    while (entries > ENTRIES_MIN && entries * entry_bytes(cap) > TABLE_BYTES) {
        entries /= 2;
    }
    return entries;
}

static apr_status_t draw_seed(uint64_t seed[2])
{
    ssize_t got;

    do {
        got = getrandom(seed, 2 * sizeof(seed[0]), 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno;
    }
    return got == (ssize_t)(2 * sizeof(seed[0])) ? APR_SUCCESS : APR_EGENERAL;
}

static apr_status_t init_mutexes(gate_shared_t *shared)
{
    pthread_mutexattr_t attr;
    unsigned i;
    int rc = pthread_mutexattr_init(&attr);

    if (rc) {
        return rc;
    }
    if (!(rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED))
        && !(rc = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST))) {
        rc = pthread_mutex_init(&shared->watch.lock, &attr);
        for (i = 0; !rc && i < STRIPES; i++) {
            rc = pthread_mutex_init(&shared->stripes[i].lock, &attr);
        }
    }
    pthread_mutexattr_destroy(&attr);
    return rc;
}

apr_status_t cs_gate_create(cs_gate_t **out, uint32_t rate_max)
{
    uint64_t cap = cap_for(rate_max), entries = entries_for(cap);
    uint64_t bytes = sizeof(gate_shared_t) + entries * entry_bytes(cap);
    cs_gate_t *gate;
    apr_status_t rv;
    void *base;

    *out = NULL;
    if (cap > CAP_MAX || bytes > SIZE_MAX / 2) {
        return APR_ENOMEM;
    }
    gate = calloc(1, sizeof(*gate));
    if (!gate) {
        return APR_ENOMEM;
    }
    base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        rv = errno;
        free(gate);
        return rv;
    }
    gate->shared = base;
    gate->heads = (rate_head_t *)(gate->shared + 1);
    gate->rings = (uint32_t *)(gate->heads + entries);
    gate->shared->bytes = bytes;
    gate->shared->nentries = entries;
    gate->shared->cap = cap;
    if ((rv = draw_seed(gate->shared->seed)) || (rv = init_mutexes(gate->shared))) {
        cs_gate_destroy(gate);
        return rv;
    }
    cs_gate_flags_init(gate);
    *out = gate;
    return APR_SUCCESS;
}

int cs_gate_holds(const cs_gate_t *gate, uint32_t rate_max)
{
    return gate && rate_max <= gate->shared->cap;
}

void cs_gate_destroy(cs_gate_t *gate)
{
    if (gate) {
        munmap(gate->shared, (size_t)gate->shared->bytes);
        free(gate);
    }
}

int cs_gate_lock(pthread_mutex_t *mutex)
{
    if (pthread_mutex_lock(mutex) == EOWNERDEAD) {
        pthread_mutex_consistent(mutex);
        return 1;
    }
    return 0;
}

void cs_gate_unlock(pthread_mutex_t *mutex)
{
    pthread_mutex_unlock(mutex);
}

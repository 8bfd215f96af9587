/* SPDX-License-Identifier: Apache-2.0 */
/* Log-linear histogram: 128 slots per power of two, so a quantile is at most 0.8 % above the true value. */
#include "load.h"

static unsigned slot_of(uint64_t ns)
{
    unsigned top, shift;

    if (ns < (1u << HIST_SUB_BITS))
        return (unsigned)ns;
    top = 63 - (unsigned)__builtin_clzll(ns);
    shift = top - HIST_SUB_BITS;
    return ((shift + 1) << HIST_SUB_BITS) + (unsigned)((ns >> shift) & ((1u << HIST_SUB_BITS) - 1));
}

static uint64_t edge_of(unsigned slot)
{
    unsigned row = slot >> HIST_SUB_BITS;
    uint64_t sub = slot & ((1u << HIST_SUB_BITS) - 1);

    if (row == 0)
        return sub;
    return ((sub + (1u << HIST_SUB_BITS) + 1) << (row - 1)) - 1;
}

void hist_add(hist_t *h, uint64_t ns)
{
    unsigned slot = slot_of(ns);

    h->slot[slot < HIST_SLOTS ? slot : HIST_SLOTS - 1]++;
    h->count++;
    h->sum += ns;
    if (ns > h->max)
        h->max = ns;
}

uint64_t hist_quantile(const hist_t *h, double q)
{
    uint64_t want = (uint64_t)(q * (double)h->count + 0.5);
    uint64_t seen = 0;

    if (h->count == 0)
        return 0;
    if (want == 0)
        want = 1;
    for (unsigned i = 0; i < HIST_SLOTS; i++) {
        seen += h->slot[i];
        if (seen >= want)
            return edge_of(i) < h->max ? edge_of(i) : h->max;
    }
    return h->max;
}

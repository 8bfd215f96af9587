/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rate: an exact sliding window for each key, in a hash table of buckets that never lets go of a count that is still needed.
 *
 * A start is remembered by its tick of 64 us, rounded up, and counts until a whole window has passed since: at most a tick too
 * long, never too short. The N-th start from the end decides alone whether there may be another. Clients are told whole seconds without
 * that tick: who waits so long has spent it on the way.
 *
 * Killed at any store: `end` counts a start in and is written last, `begin` drops the old ones and is written first, and giving
 * back moves the younger ones down before it lowers `end`. So at worst a start is counted that did not happen.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "shared.h"
#include "siphash.h"

#define TICK       64                                           /* us */
#define KEEP_TICKS (UINT64_C(3) * 24 * 3600 * (1000000 / TICK)) /* half-width times reach 76 hours back */
#define WINDOW_MAX ((apr_time_t)KEEP_TICKS * TICK)              /* longer ones count as this */

_Static_assert(KEEP_TICKS < UINT32_MAX, "a stamp tells its time");

typedef struct {
    uint64_t key[2];
    uint64_t bucket;
    apr_time_t window;
    uint32_t count;
} query_t;

typedef struct {
    rate_head_t *head; /* NULL: there is no room */
    uint32_t *ring;
    uint64_t cap;
    int known; /* it is this key's */
} place_t;

/* Stores before it are made before those behind it, for whoever takes over the lock of a thread killed in between. */
static inline void in_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static void make_query(const cs_gate_t *gate, const cs_rate_rule_t *rule, query_t *query)
{
    siphash_t hash;

    siphash_begin(&hash, gate->shared->seed);
    siphash_add(&hash, rule->group, strlen(rule->group) + 1); /* the NUL: no other group and key give the same bytes */
    siphash_add(&hash, rule->key, strlen(rule->key));
    siphash_end(&hash, query->key);
    query->bucket = query->key[0] % (gate->shared->nentries / WAYS);
    query->window = rule->window < 1 ? 1 : rule->window > WINDOW_MAX ? WINDOW_MAX : rule->window;
    query->count = rule->count < gate->shared->cap ? rule->count : (uint32_t)gate->shared->cap;
}

/* ---- locks ------------------------------------------------------------------------------------------------------- */

/* No death leaves a head that is wrong; but an index out of a scribbled one must not lead out of its ring. */
static void mend_stripe(cs_gate_t *gate, uint64_t stripe)
{
    uint64_t bucket, i;

    for (bucket = stripe; bucket < gate->shared->nentries / WAYS; bucket += STRIPES) {
        for (i = bucket * WAYS; i < (bucket + 1) * WAYS; i++) {
            if (gate->heads[i].end - gate->heads[i].begin > gate->shared->cap) {
                gate->heads[i].begin = gate->heads[i].end;
            }
        }
    }
}

static pthread_mutex_t *lock_bucket(cs_gate_t *gate, uint64_t bucket)
{
    pthread_mutex_t *lock = &gate->shared->stripes[bucket % STRIPES].lock;

    if (cs_gate_lock(lock)) {
        mend_stripe(gate, bucket % STRIPES);
    }
    return lock;
}

/* ---- an entry ---------------------------------------------------------------------------------------------------- */

static uint64_t time_of(const place_t *place, uint32_t i)
{
    uint64_t last = place->head->last;

    return last - (uint32_t)((uint32_t)last - place->ring[i & (place->cap - 1)]);
}

/* The first start later than `tick`; `end`: there is none. */
static uint32_t first_after(const place_t *place, int64_t tick)
{
    uint32_t begin = place->head->begin, count = place->head->end - begin;

    while (count) {
        uint32_t half = count / 2;

        if ((int64_t)time_of(place, begin + half) > tick) {
            count = half;
        }
        else {
            begin += half + 1;
            count -= half + 1;
        }
    }
    return begin;
}

/* When a start at `tick` leaves the window. */
static apr_time_t leaves_at(uint64_t tick, apr_time_t window)
{
    return (apr_time_t)(tick * TICK) + window;
}

static apr_time_t over_at(const rate_head_t *head)
{
    return head->begin == head->end ? 0 : leaves_at(head->last, (apr_time_t)head->window);
}

static uint32_t whole_seconds(apr_time_t span)
{
    span -= TICK - 1;
    return span <= APR_USEC_PER_SEC ? 1 : (uint32_t)((span + APR_USEC_PER_SEC - 1) / APR_USEC_PER_SEC);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static void place_at(cs_gate_t *gate, place_t *place, uint64_t index)
{
    place->head = &gate->heads[index];
    place->ring = gate->rings + index * gate->shared->cap;
}

/*
 * The key's entry; else that which has been over for longest. What still counts is left alone whoever asks, so nobody gets rid of a
 * count, his own or another's, by filling the table. `*room`: when there will be room; 0 when there is.
 */
static void find_place(cs_gate_t *gate, const query_t *query, apr_time_t now, place_t *place, apr_time_t *room)
{
    uint64_t first = query->bucket * WAYS, best = first, i;
    apr_time_t soonest = INT64_MAX;

    memset(place, 0, sizeof(*place));
    place->cap = gate->shared->cap;
    *room = 0;
    for (i = first; i < first + WAYS; i++) {
        const rate_head_t *head = &gate->heads[i];
        apr_time_t over = over_at(head);

        if (head->key[0] == query->key[0] && head->key[1] == query->key[1]) {
            place_at(gate, place, i);
            place->known = 1;
            return;
        }
        if (over < soonest) {
            soonest = over;
            best = i;
        }
    }
    if (soonest <= now) {
        place_at(gate, place, best);
    }
    else {
        *room = soonest;
    }
}

/* What the rule says, nothing changed. */
static cs_rate_e judge(const place_t *place, const query_t *query, apr_time_t now, apr_time_t room, cs_rate_t *rate)
{
    const rate_head_t *head = place->head;
    uint32_t oldest;

    memset(rate, 0, sizeof(*rate));
    if (!head) {
        rate->reset = whole_seconds(room - now);
        return CS_RATE_FULL;
    }
    if (!query->count) {
        rate->reset = whole_seconds(query->window);
        return CS_RATE_LIMITED;
    }
    rate->remaining = query->count;
    if (!place->known) {
        return CS_RATE_OK;
    }
    if (head->end - head->begin >= query->count) {
        apr_time_t free_at = leaves_at(time_of(place, head->end - query->count), query->window);

        if (free_at > now) {
            rate->remaining = 0;
            rate->reset = whole_seconds(free_at - now);
            return CS_RATE_LIMITED;
        }
    }
    oldest = first_after(place, now < query->window ? -1 : (now - query->window) / TICK);
    if (oldest != head->end) {
        rate->remaining -= head->end - oldest;
        rate->reset = whole_seconds(leaves_at(time_of(place, oldest), query->window) - now);
    }
    return CS_RATE_OK;
}

static uint64_t count_start(const place_t *place, const query_t *query, apr_time_t now)
{
    rate_head_t *head = place->head;
    uint64_t stamp = ((uint64_t)now + TICK - 1) / TICK;
    uint32_t begin;

    if (!place->known) {
        head->begin = head->end;
        in_order();
        head->key[0] = query->key[0];
        head->key[1] = query->key[1];
        head->last = stamp;
    }
    else if (stamp < head->last) {
        stamp = head->last; /* another thread read the clock later and was here first */
    }
    begin = first_after(place, (int64_t)stamp - (int64_t)KEEP_TICKS - 1);
    if (head->end - begin == place->cap) {
        begin++; /* no rule looks back further than `cap` starts */
    }
    if (over_at(head) <= now || (uint64_t)query->window > head->window) {
        head->window = (uint64_t)query->window;
    }
    in_order();
    head->begin = begin;
    in_order();
    head->last = stamp; /* before the stamp, which means nothing without it */
    place->ring[head->end & (place->cap - 1)] = (uint32_t)stamp;
    in_order();
    head->end++;
    in_order();
    return stamp;
}

/* ---- the doorway ------------------------------------------------------------------------------------------------- */

typedef enum { ASK_ONLY, ASK_AND_COUNT } ask_e;

static cs_rate_e ask(cs_gate_t *gate, const cs_rate_rule_t *rule, apr_time_t now, cs_rate_t *rate, ask_e mode)
{
    pthread_mutex_t *lock;
    cs_rate_e answer;
    apr_time_t room;
    query_t query;
    place_t place;

    if (!gate->shared->nentries) {
        memset(rate, 0, sizeof(*rate));
        return CS_RATE_FULL;
    }
    make_query(gate, rule, &query);
    lock = lock_bucket(gate, query.bucket);
    find_place(gate, &query, now, &place, &room);
    answer = judge(&place, &query, now, room, rate);
    if (answer == CS_RATE_OK && mode == ASK_AND_COUNT) {
        uint64_t stamp = count_start(&place, &query, now);

        rate->stamp = (uint32_t)stamp;
        rate->remaining--;
        if (!rate->reset) {
            rate->reset = whole_seconds(leaves_at(stamp, query.window) - now);
        }
    }
    cs_gate_unlock(lock);
    return answer;
}

cs_rate_e cs_rate_take(cs_gate_t *gate, const cs_rate_rule_t *rule, apr_time_t now, cs_rate_t *rate)
{
    return ask(gate, rule, now, rate, ASK_AND_COUNT);
}

cs_rate_e cs_rate_peek(cs_gate_t *gate, const cs_rate_rule_t *rule, apr_time_t now, cs_rate_t *rate)
{
    return ask(gate, rule, now, rate, ASK_ONLY);
}

/* Starts of one tick are all the same, so any of them may go. */
static void remove_stamp(const place_t *place, uint32_t stamp)
{
    rate_head_t *head = place->head;
    uint32_t mask = (uint32_t)place->cap - 1, i = head->end;

    while (i != head->begin && place->ring[(i - 1) & mask] != stamp) {
        i--;
    }
    if (i == head->begin) {
        return; /* its entry has become another's since */
    }
    for (; i != head->end; i++) {
        place->ring[(i - 1) & mask] = place->ring[i & mask];
        in_order(); /* oldest first: a death here leaves one twice, not one less */
    }
    head->end--;
    in_order();
}

void cs_rate_give_back(cs_gate_t *gate, const cs_rate_rule_t *rule, const cs_rate_t *rate)
{
    pthread_mutex_t *lock;
    apr_time_t room;
    query_t query;
    place_t place;

    if (!gate->shared->nentries) {
        return;
    }
    make_query(gate, rule, &query);
    lock = lock_bucket(gate, query.bucket);
    find_place(gate, &query, 0, &place, &room);
    if (place.known) {
        remove_stamp(&place, rate->stamp);
    }
    cs_gate_unlock(lock);
}

void cs_rate_address_key(char out[CS_ADDRESS_KEY_MAX], const char *address)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    unsigned char bytes[16];
    char text[INET6_ADDRSTRLEN];
    size_t len = strcspn(address, "%"); /* a zone is this machine's name for a link */

    if (inet_pton(AF_INET, address, bytes) == 1) {
        inet_ntop(AF_INET, bytes, out, CS_ADDRESS_KEY_MAX);
        return;
    }
    if (len < sizeof(text)) {
        memcpy(text, address, len);
        text[len] = '\0';
        if (inet_pton(AF_INET6, text, bytes) == 1) {
            if (!memcmp(bytes, mapped, sizeof(mapped))) {
                inet_ntop(AF_INET, bytes + sizeof(mapped), out, CS_ADDRESS_KEY_MAX);
                return;
            }
            memset(bytes + 8, 0, 8);
            inet_ntop(AF_INET6, bytes, out, INET6_ADDRSTRLEN);
            memcpy(out + strlen(out), "/64", 4);
            return;
        }
    }
    if (strlen(address) < CS_ADDRESS_KEY_MAX) {
        memcpy(out, address, strlen(address) + 1);
    }
    else { /* one that does not fit still gets a count of its own */
        snprintf(out, CS_ADDRESS_KEY_MAX, "%.24s~%016llx", address,
                 (unsigned long long)cs_hash64(address, strlen(address)));
    }
}

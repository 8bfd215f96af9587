/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What children share, for the files of this room only.
 *
 *   +---------------+------------------------------------+--------------------------------------+
 *   | gate_shared_t | rate_head_t: 16 make a bucket, ... | rings: `cap` stamps for each head    |
 *   +---------------+------------------------------------+--------------------------------------+
 *
 * The heads lie together, so that looking through a bucket stays in ten cache lines; a ring's page is touched when its head is
 * first used. Bucket b is guarded by stripe b % STRIPES.
 *
 * All locks are robust: a process may be killed between any two instructions. What it leaves must need no repair, so the files here
 * change what others rely on with one store, after all it depends on.
 */
#ifndef CS_GATE_SHARED_H
#define CS_GATE_SHARED_H

#include <pthread.h>
#include <stdatomic.h>

#include "chatstream/gate.h"

/* ---- rate: rate_table.c ------------------------------------------------------------------------------------------ */

#define STRIPES 64u
#define WAYS    16u /* entries of a bucket */

/*
 * One key of one group. Its starts are ring[begin % cap] to ring[(end - 1) % cap], oldest first, each the low half of a time in
 * ticks; none is later than `last`, nor so much earlier that the half would not do.
 */
typedef struct {
    uint64_t key[2];
    uint64_t last;   /* ticks; never goes back while the key is the same */
    uint64_t window; /* us: the longest of the rules that count in it; when it is over, the entry may be another's */
    uint32_t begin, end;
} rate_head_t;

typedef struct {
    _Alignas(64) pthread_mutex_t lock;
} rate_stripe_t;

/* ---- flags: flags.c ---------------------------------------------------------------------------------------------- */

/* Words, so that who reads while the state is written over reads something, and notices. */
typedef struct {
    _Atomic uint64_t general; /* a cs_flags_t */
    _Atomic uint64_t count;
    struct {
        _Atomic uint64_t key[2]; /* the name's hash */
        _Atomic uint64_t flags;  /* with the general ones filled in */
    } profiles[CS_FLAG_PROFILES];
} flag_state_t;

enum { TOLD_NOTHING = 0, TOLD_GOOD, TOLD_BROKEN, TOLD_GONE };

/* Which file, and which state of it. */
typedef struct {
    uint64_t dev, inode, size;
    int64_t mtime, ctime; /* ns */
    uint32_t settled;     /* the content was told about, and a later change cannot leave all the above as it is */
} file_print_t;

typedef struct {
    pthread_mutex_t lock; /* never held while a file is read */
    uint64_t path;        /* PATH_ANY, PATH_NONE or the hash of the one that is watched */
    uint64_t serial;      /* counts what was put in; a look that began before it came too late */
    uint32_t told;        /* TOLD_* */
    uint32_t doubt;       /* TOLD_BROKEN, TOLD_GONE: so it was in the last look; else 0 */
    uint64_t told_broken; /* the content's hash */
    file_print_t print;
} flag_watch_t;

typedef struct {
    uint64_t seed[2]; /* of all hashes here; constant */
    uint64_t bytes;
    uint64_t nentries; /* 0: no rates */
    uint64_t cap;
    _Alignas(64) _Atomic uint32_t generation; /* states[generation % 2] is in force */
    _Atomic uint32_t broken;
    flag_state_t states[2]; /* watch.lock */
    _Alignas(64) flag_watch_t watch;
    rate_stripe_t stripes[STRIPES];
} gate_shared_t;

struct cs_gate_t {
    gate_shared_t *shared;
    rate_head_t *heads;
    uint32_t *rings;
};

/* ---- shared.c ---------------------------------------------------------------------------------------------------- */

/* 1: whoever held it before died with it. */
int cs_gate_lock(pthread_mutex_t *mutex);
void cs_gate_unlock(pthread_mutex_t *mutex);

/* ---- flags.c ----------------------------------------------------------------------------------------------------- */

void cs_gate_flags_init(cs_gate_t *gate);

/* ---- flag_file.c: what a flag file says -------------------------------------------------------------------------- */

#define FLAG_FILE_MAX 65536
#define FLAG_NAME_MAX 127

typedef struct {
    cs_flags_t general;
    unsigned count;
    struct {
        char name[FLAG_NAME_MAX + 1];
        cs_flags_t flags;
    } profiles[CS_FLAG_PROFILES];
} flag_file_t;

/* APR_EINVAL: `why` has one printable line; `file` is undefined. */
apr_status_t cs_gate_flag_file_parse(flag_file_t *file, const char *text, size_t len, char *why, size_t size);

#endif

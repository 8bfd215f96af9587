/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flags: one process reads the file, all have what it says.
 *
 * Two states lie in shared memory; the generation says which is in force. Publishing fills the other one and then counts the
 * generation up, so a publisher that is killed leaves the old state. A reader copies what he needs and looks whether the generation
 * is still the same: only then did nobody begin to write over what he read.
 *
 * What the looks of all processes have seen lies there, too (flag_watch_t). Files are read without its lock, for a file may hang; the
 * serial tells who came too late with what he read. If its holder dies, all that was seen is forgotten and told once more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared.h"
#include "siphash.h"

#define PATH_ANY  0 /* nobody said which */
#define PATH_NONE 1

/* Clocks of file systems are coarse, and two changes within a tick look like one. */
#define SETTLES_AFTER apr_time_from_sec(2)

enum { SEEN_NOTHING_NEW = TOLD_NOTHING, SEEN_GOOD = TOLD_GOOD, SEEN_BROKEN = TOLD_BROKEN, SEEN_GONE = TOLD_GONE };

/* What one look found. */
typedef struct {
    int seen;           /* SEEN_* */
    uint64_t content;   /* broken: tells one from another */
    file_print_t print; /* good or broken: of the file */
    flag_file_t file;   /* good */
} sight_t;

/* ---- the state in force ------------------------------------------------------------------------------------------ */

static uint64_t pack(const cs_flags_t *flags)
{
    return (uint64_t)(uint32_t)flags->share << 32 | (uint32_t)flags->enabled;
}

static void unpack(cs_flags_t *flags, uint64_t word)
{
    flags->share = (int32_t)(uint32_t)(word >> 32);
    flags->enabled = (int32_t)(uint32_t)word;
}

static void hash_name(const cs_gate_t *gate, const char *name, uint64_t key[2])
{
    siphash_t hash;

    siphash_begin(&hash, gate->shared->seed);
    siphash_add(&hash, name, strlen(name));
    siphash_end(&hash, key);
}

/* Acquire and release: who reads a word of the next state also sees that the generation has moved. */
static uint64_t get(_Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void put(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static void fill(const cs_gate_t *gate, flag_state_t *state, const flag_file_t *file)
{
    unsigned i;

    put(&state->general, pack(&file->general));
    put(&state->count, file->count);
    for (i = 0; i < file->count; i++) {
        cs_flags_t flags = file->profiles[i].flags;
        uint64_t key[2];

        flags.enabled = flags.enabled < 0 ? file->general.enabled : flags.enabled;
        flags.share = flags.share < 0 ? file->general.share : flags.share;
        hash_name(gate, file->profiles[i].name, key);
        put(&state->profiles[i].key[0], key[0]);
        put(&state->profiles[i].key[1], key[1]);
        put(&state->profiles[i].flags, pack(&flags));
    }
}

static int same_state(flag_state_t *a, flag_state_t *b)
{
    uint64_t i, count = get(&a->count);
    int same = get(&a->general) == get(&b->general) && count == get(&b->count);

    for (i = 0; same && i < count; i++) {
        same = get(&a->profiles[i].key[0]) == get(&b->profiles[i].key[0])
               && get(&a->profiles[i].key[1]) == get(&b->profiles[i].key[1])
               && get(&a->profiles[i].flags) == get(&b->profiles[i].flags);
    }
    return same;
}

/* Lock held. 1: it is another state than was in force. */
static int publish(cs_gate_t *gate, const flag_file_t *file)
{
    gate_shared_t *shared = gate->shared;
    uint32_t generation = atomic_load(&shared->generation);
    flag_state_t *next = &shared->states[(generation + 1) & 1];

    fill(gate, next, file);
    if (same_state(next, &shared->states[generation & 1])) {
        return 0;
    }
    atomic_store(&shared->generation, generation + 1);
    return 1;
}

static int publish_nothing(cs_gate_t *gate)
{
    flag_file_t none;

    none.count = 0;
    none.general.enabled = none.general.share = -1;
    return publish(gate, &none);
}

void cs_flags_of(cs_gate_t *gate, const char *profile, cs_flags_t *flags)
{
    gate_shared_t *shared = gate->shared;
    uint32_t generation;
    uint64_t word, key[2];
    int hashed = 0;

    do {
        flag_state_t *state;
        uint64_t count, i;

        generation = atomic_load_explicit(&shared->generation, memory_order_acquire);
        state = &shared->states[generation & 1];
        word = get(&state->general);
        count = profile ? get(&state->count) : 0;
        if (count && !hashed) {
            hash_name(gate, profile, key);
            hashed = 1;
        }
        for (i = 0; i < count; i++) {
            if (get(&state->profiles[i].key[0]) == key[0] && get(&state->profiles[i].key[1]) == key[1]) {
                word = get(&state->profiles[i].flags);
                break;
            }
        }
    } while (atomic_load_explicit(&shared->generation, memory_order_relaxed) != generation);
    unpack(flags, word);
}

int cs_flags_are_broken(const cs_gate_t *gate)
{
    return atomic_load(&gate->shared->broken) != 0;
}

/* ---- reading the file -------------------------------------------------------------------------------------------- */

static int64_t ns_of(const struct timespec *time)
{
    return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

/* To be made before the file is read, so that a change while it is read shows. */
static void take_print(file_print_t *print, const struct stat *info)
{
    apr_time_t before = apr_time_now() - SETTLES_AFTER;

    memset(print, 0, sizeof(*print));
    print->dev = info->st_dev;
    print->inode = info->st_ino;
    print->size = (uint64_t)info->st_size;
    print->mtime = ns_of(&info->st_mtim);
    print->ctime = ns_of(&info->st_ctim); /* nobody can set it back */
    print->settled = print->mtime / 1000 < before && print->ctime / 1000 < before;
}

static int same_print(const file_print_t *a, const file_print_t *b)
{
    return a->dev == b->dev && a->inode == b->inode && a->size == b->size && a->mtime == b->mtime
           && a->ctime == b->ctime;
}

/* Up to `max` bytes. */
static apr_status_t read_all(int fd, char *text, size_t max, size_t *len)
{
    *len = 0;
    while (*len < max) {
        ssize_t got = read(fd, text + *len, max - *len);

        if (got < 0 && errno != EINTR) {
            return errno;
        }
        if (!got) {
            break;
        }
        *len += got > 0 ? (size_t)got : 0;
    }
    return APR_SUCCESS;
}

static void see_trouble(sight_t *sight, int error, char *why, size_t size)
{
    char text[120];

    sight->seen = error == ENOENT || error == ENOTDIR ? SEEN_GONE : SEEN_BROKEN;
    sight->content = (uint64_t)error;
    snprintf(why, size, "%s", apr_strerror(error, text, sizeof(text)));
}

static void see_content(int fd, sight_t *sight, char *why, size_t size)
{
    char *text = malloc(FLAG_FILE_MAX + 1);
    apr_status_t rv = ENOMEM;
    size_t len;

    if (!text || (rv = read_all(fd, text, FLAG_FILE_MAX + 1, &len))) {
        see_trouble(sight, rv, why, size);
    }
    else if (cs_gate_flag_file_parse(&sight->file, text, len, why, size)) {
        sight->seen = SEEN_BROKEN;
        sight->content = cs_hash64(text, len);
    }
    else {
        sight->seen = SEEN_GOOD;
    }
    free(text);
}

/* NOTHING_NEW: the file is still as `known` says. */
static void look_at(const char *path, const file_print_t *known, sight_t *sight, char *why, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a FIFO would let us wait */
    struct stat info;

    if (fd < 0 || fstat(fd, &info)) {
        see_trouble(sight, errno, why, size);
    }
    else if (!S_ISREG(info.st_mode)) {
        see_trouble(sight, EINVAL, why, size);
        snprintf(why, size, "not a regular file");
    }
    else {
        take_print(&sight->print, &info);
        if (known->settled && same_print(known, &sight->print)) {
            sight->seen = SEEN_NOTHING_NEW;
        }
        else {
            see_content(fd, sight, why, size);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* ---- what the looks lead to -------------------------------------------------------------------------------------- */

static flag_watch_t *lock_watch(cs_gate_t *gate)
{
    flag_watch_t *watch = &gate->shared->watch;

    if (cs_gate_lock(&watch->lock)) {
        watch->told = watch->doubt = TOLD_NOTHING;
        watch->print.settled = 0;
        watch->serial++;
    }
    return watch;
}

static uint64_t path_mark(const char *path)
{
    uint64_t hash = cs_hash64(path, strlen(path));

    return hash > PATH_NONE ? hash : hash + 2;
}

/* Lock held: this is in force now, and told. */
static cs_flags_look_e conclude(cs_gate_t *gate, const sight_t *sight)
{
    flag_watch_t *watch = &gate->shared->watch;
    int was_told = watch->told == (uint32_t)sight->seen;
    cs_flags_look_e answer;

    watch->print.settled = 0;
    switch (sight->seen) {
    case SEEN_GOOD:
        answer = publish(gate, &sight->file) || !was_told ? CS_FLAGS_CHANGED : CS_FLAGS_SAME;
        break;
    case SEEN_GONE:
        publish_nothing(gate);
        answer = was_told ? CS_FLAGS_SAME : CS_FLAGS_GONE;
        break;
    default:
        answer = was_told && watch->told_broken == sight->content ? CS_FLAGS_SAME : CS_FLAGS_BROKEN;
        watch->told_broken = sight->content;
        break;
    }
    atomic_store(&gate->shared->broken, sight->seen == SEEN_BROKEN);
    watch->told = (uint32_t)sight->seen;
    watch->print = sight->print;
    return answer;
}

/* Lock held. Trouble needs a witness, unless `at_once`. */
static cs_flags_look_e weigh(cs_gate_t *gate, const sight_t *sight, int at_once)
{
    flag_watch_t *watch = &gate->shared->watch;
    int trouble = sight->seen != SEEN_GOOD;
    int witnessed = watch->doubt == (uint32_t)sight->seen;

    watch->serial++;
    watch->doubt = trouble ? (uint32_t)sight->seen : TOLD_NOTHING;
    if (trouble && !witnessed && !at_once) {
        watch->print.settled = 0;
        return CS_FLAGS_SAME;
    }
    return conclude(gate, sight);
}

static cs_flags_look_e look(cs_gate_t *gate, const char *path, int at_once, char *why, size_t size)
{
    sight_t *sight = calloc(1, sizeof(*sight));
    uint64_t mark = path_mark(path), serial;
    cs_flags_look_e answer = CS_FLAGS_SAME;
    flag_watch_t *watch;
    file_print_t known;

    if (size) {
        why[0] = '\0';
    }
    if (!sight) {
        return CS_FLAGS_SAME; /* the next look may have the memory */
    }
    watch = lock_watch(gate);
    if (at_once) {
        watch->path = mark;
        watch->serial++; /* looks that are under way may be at another file */
    }
    /* A child of before a graceful restart may still look where it was told to. */
    if (watch->path != mark && watch->path != PATH_ANY) {
        cs_gate_unlock(&watch->lock);
        free(sight);
        return CS_FLAGS_SAME;
    }
    serial = watch->serial;
    known = watch->print;
    cs_gate_unlock(&watch->lock);

    look_at(path, &known, sight, why, size);
    if (sight->seen != SEEN_NOTHING_NEW) {
        watch = lock_watch(gate);
        if (watch->serial == serial || at_once) {
            answer = weigh(gate, sight, at_once);
        }
        cs_gate_unlock(&watch->lock);
    }
    if (size && (answer == CS_FLAGS_SAME || answer == CS_FLAGS_CHANGED)) {
        why[0] = '\0';
    }
    free(sight);
    return answer;
}

cs_flags_look_e cs_flags_look(cs_gate_t *gate, const char *path, char *why, size_t size)
{
    return look(gate, path, 0, why, size);
}

cs_flags_look_e cs_flags_load(cs_gate_t *gate, const char *path, char *why, size_t size)
{
    return look(gate, path, 1, why, size);
}

void cs_flags_clear(cs_gate_t *gate)
{
    flag_watch_t *watch = lock_watch(gate);

    watch->path = PATH_NONE;
    watch->serial++;
    watch->told = watch->doubt = TOLD_NOTHING;
    watch->print.settled = 0;
    publish_nothing(gate);
    atomic_store(&gate->shared->broken, 0);
    cs_gate_unlock(&watch->lock);
}

void cs_gate_flags_init(cs_gate_t *gate)
{
    publish_nothing(gate);
}

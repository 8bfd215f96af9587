/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: what is appended is there, once, in order, in an unbroken chain; after deaths at any moment, with damage at any byte,
 * on a full disk. And what is in the database is gone from the directory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record/chain_link.h"
#include "record/journal.h"
#include "tap.h"

static char dir[64];
static char error[512];

/* Instead of libc's: a disk that fails when asked to. */
static _Atomic int sync_fails, syncs;

int fdatasync(int fd)
{
    syncs++;
    if (sync_fails) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

/* Something that happens between opening a lock file and locking it. */
static void (*before_flock)(void);

int flock(int fd, int operation)
{
    void (*happens)(void) = before_flock;

    before_flock = NULL;
    if (happens) {
        happens();
    }
    return (int)syscall(SYS_flock, fd, operation);
}

/* ---- the directory ----------------------------------------------------------------------------------------------- */

static void empty_dir(void)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;

    while (stream && (entry = readdir(stream)) != NULL) {
        unlinkat(dirfd(stream), entry->d_name, 0);
    }
    closedir(stream);
}

static int count_files(const char *suffix)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;
    int count = 0;

    while ((entry = readdir(stream)) != NULL) {
        size_t len = strlen(entry->d_name), want = strlen(suffix);

        count += entry->d_name[0] != '.' && len >= want && !strcmp(entry->d_name + len - want, suffix);
    }
    closedir(stream);
    return count;
}

static const char *path_of(const char *name)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static size_t slurp(const char *path, char *bytes, size_t size)
{
    int fd = open(path, O_RDONLY);
    ssize_t len = read(fd, bytes, size);

    close(fd);
    return len > 0 ? (size_t)len : 0;
}

static void spew(const char *path, const char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (write(fd, bytes, len) != (ssize_t)len) {
        abort();
    }
    close(fd);
}

static int dir_holds(const char *word)
{
    static char bytes[1 << 21];
    DIR *stream = opendir(dir);
    struct dirent *entry;
    int found = 0;

    while ((entry = readdir(stream)) != NULL) {
        if (entry->d_name[0] != '.') {
            found += memmem(bytes, slurp(path_of(entry->d_name), bytes, sizeof(bytes)), word, strlen(word)) != NULL;
        }
    }
    closedir(stream);
    return found;
}

/* ---- facts ------------------------------------------------------------------------------------------------------- */

static cs_journal_options_t options_of(cs_sync_e sync)
{
    cs_journal_options_t options = {.dir = dir, .node = "node-1", .sync = sync};

    memcpy(options.arena.bytes, "0123456789abcdef", 16);
    return options;
}

static cs_journal_t *create(cs_sync_e sync)
{
    cs_journal_options_t options = options_of(sync);
    cs_journal_t *journal;

    if (cs_journal_create(&journal, &options, error, sizeof(error)) != APR_SUCCESS) {
        printf("# create: %s\n", error);
        return NULL;
    }
    return journal;
}

static cs_journal_t *adopt(cs_sync_e sync)
{
    cs_journal_options_t options = options_of(sync);
    cs_journal_t *journal;

    return cs_journal_adopt(&journal, &options, error, sizeof(error)) == APR_SUCCESS ? journal : NULL;
}

/* Number `n`; every third has no audit row. */
static apr_status_t append(cs_journal_t *journal, int64_t n, const char *message)
{
    cs_fact_t fact;

    cs_fact_init(&fact, CS_FACT_OPEN);
    fact.number[CS_NUM_AT] = n;
    fact.number[CS_NUM_WANTS] = CS_WANT_SESSIONS | (n % 3 ? CS_WANT_AUDIT : 0);
    cs_fact_set(&fact, CS_TXT_EVENT, "stream_open");
    cs_fact_set(&fact, CS_TXT_USER_KEY, "user");
    cs_fact_set(&fact, CS_TXT_MESSAGE, message);
    return cs_journal_append(journal, &fact);
}

typedef struct {
    int facts, corrupt, broken, disorder; /* broken: links that do not follow or hold */
    int64_t last;
    cs_tip_t tip;
    cs_journal_place_t end;
    char detail[8192]; /* of the first audit row */
} seen_t;

static void read_all(cs_journal_t *journal, seen_t *seen)
{
    cs_journal_read_e got;
    cs_fact_t fact;

    memset(seen, 0, sizeof(*seen));
    cs_tip_init(&seen->tip);
    while ((got = cs_journal_read(journal, &fact, &seen->end, error, sizeof(error))) != CS_JOURNAL_END) {
        if (got == CS_JOURNAL_CORRUPT) {
            seen->corrupt++;
            continue;
        }
        seen->facts++;
        seen->disorder += fact.number[CS_NUM_AT] <= seen->last;
        seen->last = fact.number[CS_NUM_AT];
        if (fact.link.seq) {
            seen->broken +=
                !cs_chain_link_holds(cs_journal_chain(journal), &fact)
                || (seen->tip.seq
                    && (fact.link.seq != seen->tip.seq + 1 || strcmp(fact.link.prev_hash, seen->tip.hash) != 0
                        || fact.link.ts < seen->tip.ts));
            cs_tip_of(&seen->tip, &fact.link);
            if (fact.link.seq == 1) {
                snprintf(seen->detail, sizeof(seen->detail), "%.*s", (int)fact.text[CS_TXT_DETAIL].len,
                         fact.text[CS_TXT_DETAIL].data);
            }
        }
    }
}

/* Takes a chain over, reads it, applies all and gives it up. 0: there was none. */
static int drain(seen_t *seen)
{
    cs_journal_t *journal = adopt(CS_SYNC_OFF);

    if (journal) {
        read_all(journal, seen);
        cs_journal_applied(journal, &seen->end);
        cs_journal_close(journal);
    }
    return journal != NULL;
}

/* ---- in one process ---------------------------------------------------------------------------------------------- */

static int count_listed(void *baton, const char *chain, const cs_journal_place_t *place, const cs_fact_t *fact,
                        int applied, const char *note)
{
    int *counts = baton;

    (void)chain;
    (void)place;
    counts[note ? 2 : applied]++;
    return !fact && !note;
}

static void test_basics(cs_sync_e sync, const char *name)
{
    cs_journal_t *journal = create(sync);
    apr_time_t before = apr_time_now(), oldest, listed_oldest;
    cs_journal_place_t place, middle = {0, 0}, wild = {9, 9};
    int counts[3] = {0, 0, 0};
    uint64_t bytes;
    struct stat file;
    seen_t seen;
    cs_fact_t fact;

    is_int(cs_journal_read(journal, &fact, &place, error, sizeof(error)), CS_JOURNAL_END, "%s: empty at first", name);
    is_int(cs_journal_pending(journal, &oldest), 0, "nothing is pending");
    for (int i = 1; i <= 100; i++) {
        if (append(journal, i, "hello") != APR_SUCCESS) {
            ok(0, "append %d", i);
        }
    }
    is_int(cs_journal_sync(journal), APR_SUCCESS, "sync");
    ok(cs_journal_pending(journal, &oldest) > 5000 && oldest >= before && oldest <= apr_time_now(), "bytes and age");
    ok(cs_journal_usage(dir, &bytes, &listed_oldest) == APR_SUCCESS && bytes == cs_journal_pending(journal, &oldest)
           && listed_oldest == oldest,
       "usage says the same from outside");
    for (int i = 0; i < 40; i++) {
        cs_journal_read(journal, &fact, &middle, error, sizeof(error));
    }
    is_int(cs_journal_applied(journal, &wild), APR_EINVAL, "what was not read is not applied");
    is_int(cs_journal_applied(journal, &middle), APR_SUCCESS, "40 are applied");
    read_all(journal, &seen);
    is_int(seen.facts, 60, "60 follow");
    cs_journal_rewind(journal);
    read_all(journal, &seen);
    ok(seen.facts == 60 && seen.last == 100 && !seen.disorder && !seen.broken, "and again after a rollback, unbroken");
    cs_journal_list(dir, count_listed, counts, error, sizeof(error));
    ok(counts[0] == 60 && counts[1] == 40 && !counts[2], "a list knows which");
    cs_journal_usage(dir, &bytes, &listed_oldest);
    is_int(bytes, cs_journal_pending(journal, &oldest), "usage follows");
    ok(stat(path_of(cs_journal_chain(journal)), &file) != 0, "no file without a suffix");
    cs_journal_applied(journal, &seen.end);
    is_int(cs_journal_pending(journal, &oldest), 0, "all applied: nothing is pending");
    is_int(oldest, 0, "since never");
    is_int(append(journal, 999, NULL), APR_SUCCESS, "one more");
    read_all(journal, &seen);
    is_int(seen.facts, 1, "is read alone");
    cs_journal_close(journal);
    is_int(count_files(".lock"), 1, "closed with something pending, its files stay");
    journal = adopt(sync);
    ok(journal && !memcmp(cs_journal_arena(journal)->bytes, "0123456789abcdef", 16), "to be adopted with its arena");
    append(journal, 1000, NULL);
    read_all(journal, &seen);
    ok(seen.facts == 2 && seen.last == 1000 && !seen.broken, "what was pending and what is new");
    cs_journal_applied(journal, &seen.end);
    cs_journal_close(journal);
    ok(count_files("") == 1 && count_files(".head") == 1, "closed when all is applied, only the head is left");
    ok(!adopt(sync), "nothing to adopt");
    empty_dir();
}

static void test_refused(void)
{
    cs_journal_t *journal = create(CS_SYNC_OFF);
    cs_fact_t fact;
    seen_t seen;

    append(journal, 1, NULL);
    cs_fact_init(&fact, CS_FACT_INCIDENT);
    fact.number[CS_NUM_WANTS] = CS_WANT_AUDIT;
    cs_fact_set(&fact, CS_TXT_EVENT, "\xff");
    is_int(cs_journal_append(journal, &fact), APR_EINVAL, "not UTF-8: refused");
    is_int(fact.link.seq, 0, "without a link");
    append(journal, 2, NULL);
    read_all(journal, &seen);
    ok(seen.facts == 2 && !seen.broken, "the chain goes on as if it had not been");
    cs_journal_close(journal);
    empty_dir();
}

static void test_planted_word(void)
{
    cs_journal_t *journal = create(CS_SYNC_SECOND);
    seen_t seen;
    char *large = malloc(100 * 1024);

    append(journal, 1, "planted-word");
    ok(dir_holds("planted-word"), "a message is in the directory");
    read_all(journal, &seen);
    cs_journal_applied(journal, &seen.end);
    ok(dir_holds("planted-word"), "a moment longer than needed");
    usleep(1050000);
    cs_journal_applied(journal, &seen.end);
    ok(!dir_holds("planted-word"), "but not a second");
    cs_journal_applied(journal, &seen.end);
    is_int(count_files(".journal"), 1, "one empty segment is left");
    memset(large, 'x', 100 * 1024);
    memcpy(large, "planted-word", 12);
    large[100 * 1024 - 1] = '\0';
    append(journal, 2, large);
    read_all(journal, &seen);
    cs_journal_applied(journal, &seen.end);
    ok(!dir_holds("planted-word"), "what is large goes at once");
    append(journal, 4, NULL);
    read_all(journal, &seen);
    ok(seen.facts == 1 && seen.tip.seq == 3, "the chain goes on over segments");
    cs_journal_close(journal);
    free(large);
    empty_dir();
}

/* Nobody reads: the journal grows over several files, and they go one after the other. */
static void test_growth(void)
{
    cs_journal_t *journal = create(CS_SYNC_OFF);
    size_t len = 1024 * 1024;
    char *large = malloc(len);
    cs_journal_place_t place;
    cs_fact_t fact;
    seen_t seen;

    memset(large, 'x', len);
    large[len - 1] = '\0';
    for (int i = 1; i <= 40; i++) {
        append(journal, i, large);
    }
    is_int(count_files(".journal"), 3, "40 MiB are three segments");
    for (int i = 0; i < 20; i++) {
        cs_journal_read(journal, &fact, &place, error, sizeof(error));
    }
    cs_journal_applied(journal, &place);
    is_int(count_files(".journal"), 2, "what is applied goes");
    cs_journal_close(journal);
    journal = adopt(CS_SYNC_OFF);
    read_all(journal, &seen);
    ok(seen.facts == 20 && seen.last == 40 && !seen.broken && !seen.corrupt, "an adopter reads the rest");
    cs_journal_applied(journal, &seen.end);
    cs_journal_close(journal);
    is_int(count_files(".journal"), 0, "and all goes");
    free(large);
    empty_dir();
}

/* ---- anchors ----------------------------------------------------------------------------------------------------- */

static void note_head(void *baton, const cs_head_t *head)
{
    *(cs_head_t *)baton = *head;
}

static void test_anchors(void)
{
    cs_journal_t *ended = create(CS_SYNC_OFF), *lives, *silent, *journal;
    char want[8192], ended_name[64];
    cs_fact_t fact;
    seen_t seen, lives_seen;
    cs_head_t head = {.seq = 0};

    usleep(2000); /* names begin with the millisecond; newer chains are anchored first */
    lives = create(CS_SYNC_OFF);
    silent = create(CS_SYNC_OFF);
    append(ended, 1, NULL);
    append(ended, 2, NULL);
    read_all(ended, &seen);
    cs_journal_applied(ended, &seen.end);
    memcpy(ended_name, cs_journal_chain(ended), 37);
    cs_journal_close(ended);
    is_int(cs_journal_heads(dir, note_head, &head), APR_SUCCESS, "heads");
    ok(head.seq == 2 && !strcmp(head.chain, ended_name) && !strcmp(head.hash, seen.tip.hash), "an ended chain's head");
    append(lives, 1, NULL);
    append(silent, 3, NULL);
    read_all(lives, &lives_seen);
    snprintf(
        want, sizeof(want),
        "{\"anchors\":[{\"chain\":\"%s\",\"seq\":1,\"hash\":\"%s\"},{\"chain\":\"%s\",\"seq\":2,\"hash\":\"%s\"}],\"a\":1}",
        cs_journal_chain(lives), lives_seen.tip.hash, ended_name, seen.tip.hash);
    ok(strstr(lives_seen.detail, head.hash), "the first row anchors it");
    is_int(count_files(".head"), 0, "then its head is let go");
    {
        char line[128];

        snprintf(line, sizeof(line), "2 %s\n", seen.tip.hash);
        strcat(ended_name, ".head");
        spew(path_of(ended_name), line, strlen(line));
    }
    journal = create(CS_SYNC_ALWAYS);
    cs_fact_init(&fact, CS_FACT_INCIDENT);
    fact.number[CS_NUM_WANTS] = CS_WANT_AUDIT;
    fact.number[CS_NUM_AT] = 1;
    cs_fact_set(&fact, CS_TXT_EVENT, "denied");
    cs_fact_set(&fact, CS_TXT_DETAIL, " { \"a\":1} ");
    is_int(cs_journal_append(journal, &fact), APR_SUCCESS, "a first row with a detail");
    read_all(journal, &seen);
    is_str(seen.detail, want, "anchors the living and the dead, the silent not");
    ok(!seen.broken, "and its hash covers them");
    cs_journal_append(journal, &fact);
    read_all(journal, &seen);
    ok(seen.facts == 1 && seen.tip.seq == 2 && !*seen.detail, "the second row does not");
    cs_journal_close(journal);
    cs_journal_close(lives);
    cs_journal_close(silent);
    empty_dir();
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

enum { SMALL = 6 };

/* A chain that somebody left, with facts 1 to SMALL. Its bytes. */
static size_t small_chain(char *name, char *bytes, size_t size)
{
    cs_journal_t *journal = create(CS_SYNC_OFF);

    snprintf(name, 80, "%s-1.journal", cs_journal_chain(journal));
    for (int i = 1; i <= SMALL; i++) {
        append(journal, i, "small");
    }
    cs_journal_close(journal);
    return slurp(path_of(name), bytes, size);
}

static void test_cut(void)
{
    char name[80], bytes[8192];
    size_t len = small_chain(name, bytes, sizeof(bytes)), entry = (len - 384) / SMALL;
    int wrong = 0, none = 0, expected = SMALL;
    seen_t seen;

    for (size_t cut = len; cut > 384; cut--) {
        cs_journal_t *journal;

        empty_dir();
        spew(path_of(name), bytes, cut);
        if (!(journal = adopt(CS_SYNC_OFF))) {
            none++;
            continue;
        }
        append(journal, 100, "new");
        /* That one goes, too: the next finds nothing torn in the middle. */
        cs_journal_close(journal);
        if (!(journal = adopt(CS_SYNC_OFF))) {
            none++;
            continue;
        }
        read_all(journal, &seen);
        /* The number of facts may only go down as the cut does, by one at a time; and what is left is the beginning. */
        if (seen.facts - 1 != expected && seen.facts - 1 != --expected) {
            wrong++;
        }
        wrong += seen.broken || seen.disorder || seen.corrupt || seen.last != 100;
        cs_journal_applied(journal, &seen.end);
        cs_journal_close(journal);
        wrong += count_files(".journal") != 0;
    }
    ok(entry > 100, "entries have a size");
    is_int(none, 0, "cut anywhere, a chain is adopted");
    is_int(wrong, 0, "the torn entry is dropped, the others are there, and the chain goes on unbroken");
    is_int(expected, 0, "down to none");
    for (size_t cut = 0; cut < 384; cut++) {
        empty_dir();
        spew(path_of(name), bytes, cut);
        wrong += adopt(CS_SYNC_OFF) != NULL || count_files("") != 0;
    }
    is_int(wrong, 0, "one that was killed before its head was written leaves nothing");
    empty_dir();
}

static void test_flips(void)
{
    char name[80], bytes[8192];
    size_t len = small_chain(name, bytes, sizeof(bytes));
    int none = 0, lost = 0, untold = 0, wrong = 0, again = 0;
    seen_t seen, second;

    for (size_t at = 0; at < len; at++) {
        cs_journal_t *journal;

        empty_dir();
        bytes[at] ^= (char)(1 << at % 8);
        spew(path_of(name), bytes, len);
        bytes[at] ^= (char)(1 << at % 8);
        if (!(journal = adopt(CS_SYNC_OFF))) {
            none++;
            continue;
        }
        read_all(journal, &seen);
        lost += seen.facts != (at < 384 ? SMALL : SMALL - 1);
        untold += seen.corrupt != 1 || count_files(".corrupt") != 1;
        wrong += seen.disorder || seen.last > SMALL;
        cs_journal_rewind(journal);
        read_all(journal, &second);
        again += second.corrupt != 0 || second.facts != seen.facts;
        cs_journal_applied(journal, &second.end);
        cs_journal_close(journal);
        wrong += count_files(".journal") != 0;
    }
    is_int(none, 0, "with a flipped bit anywhere, a chain is adopted");
    is_int(lost, 0, "the other facts are delivered");
    is_int(untold, 0, "the damage is told and set aside");
    is_int(again, 0, "once");
    is_int(wrong, 0, "no wrong fact is delivered, no file stays");
    empty_dir();
}

/* All states a directory can be in between the steps of a rotation, of closing and of .done. */
static void test_crashed_rotation(void)
{
    static const char zeros[384];
    char name[80], next[80], done[80], bytes[8192], head[384], done_bytes[256];
    size_t len, done_len;
    cs_journal_t *journal = create(CS_SYNC_OFF);
    int wrong = 0;
    seen_t seen;

    snprintf(name, sizeof(name), "%s-1.journal", cs_journal_chain(journal));
    snprintf(next, sizeof(next), "%s-2.journal", cs_journal_chain(journal));
    snprintf(done, sizeof(done), "%s.done", cs_journal_chain(journal));
    for (int i = 1; i <= SMALL; i++) {
        append(journal, i, "small");
    }
    len = slurp(path_of(name), bytes, sizeof(bytes));
    read_all(journal, &seen);
    usleep(1050000);
    cs_journal_applied(journal, &seen.end);
    ok(slurp(path_of(next), head, sizeof(head)) == 384 && slurp(path_of(name), done_bytes, 1) == 0, "it has rotated");
    done_len = slurp(path_of(done), done_bytes, sizeof(done_bytes));
    append(journal, 7, "new");
    cs_journal_close(journal);
    /* State: is .done written, how much of the new head is there (or zeros), is the old segment gone. */
    for (int state = 0; state < 2 * 386; state++) {
        int is_done = state % 2;
        size_t part = (size_t)(state / 2);
        int facts = is_done ? 0 : SMALL;

        empty_dir();
        spew(path_of(name), bytes, len);
        if (is_done) {
            spew(path_of(done), done_bytes, done_len);
        }
        spew(path_of(next), part == 385 ? zeros : head, part == 385 ? 384 : part);
        journal = adopt(CS_SYNC_SECOND);
        if (!journal) {
            wrong++;
            continue;
        }
        append(journal, 100, NULL);
        read_all(journal, &seen);
        wrong += seen.facts != facts + 1 || seen.last != 100 || seen.broken || seen.corrupt || seen.tip.seq != 5;
        cs_journal_applied(journal, &seen.end);
        cs_journal_close(journal);
        wrong += count_files(".journal") != 0;
    }
    is_int(wrong, 0, "a crash in a rotation loses nothing and repeats nothing that .done knows");
    /* The old one is gone; .done may be of before. */
    empty_dir();
    spew(path_of(next), head, 384);
    journal = adopt(CS_SYNC_SECOND);
    append(journal, 100, NULL);
    read_all(journal, &seen);
    ok(seen.facts == 1 && seen.tip.seq == 5, "an empty new segment carries the chain on");
    cs_journal_close(journal);
    /* A power failure took the end of what .done says is applied: its numbers are not used again. */
    empty_dir();
    spew(path_of(name), bytes, len / 2);
    spew(path_of(done), done_bytes, done_len);
    journal = adopt(CS_SYNC_SECOND);
    append(journal, 100, NULL);
    read_all(journal, &seen);
    ok(seen.facts == 1 && seen.last == 100 && seen.tip.seq == 5,
       "what the journal lost and the database has is not numbered again");
    cs_journal_close(journal);
    /* Torn copies of .done. */
    for (size_t cut = 0; cut < done_len; cut++) {
        empty_dir();
        spew(path_of(name), bytes, len);
        spew(path_of(done), done_bytes, cut);
        wrong += !drain(&seen) || (seen.facts != SMALL && seen.facts != 0);
    }
    is_int(wrong, 0, "a torn .done is none");
    empty_dir();
    spew(path_of(done), done_bytes, done_len);
    ok(!adopt(CS_SYNC_OFF) && count_files("") == 1 && count_files(".head") == 1,
       "only .done is left of a close that was cut short: the head is kept");
    empty_dir();
    spew(path_of(next), zeros, 384);
    ok(!adopt(CS_SYNC_OFF) && *error && count_files(".corrupt") == 1,
       "nobody knows where it stood: set aside and told");
    ok(!adopt(CS_SYNC_OFF) && count_files("") == 1, "once");
    spew(path_of("0190a5c4-7e1b-7abc-8def-0123456789ab-01.journal"), "x", 1);
    spew(path_of("notes.lock"), "x", 1);
    ok(!adopt(CS_SYNC_OFF) && count_files("") == 3, "files that are not ours are left alone");
    empty_dir();
}

/* ---- a full disk ------------------------------------------------------------------------------------------------- */

static void test_full(cs_sync_e sync)
{
    cs_journal_t *journal = create(sync);
    struct rlimit old, limit;
    struct stat file;
    apr_status_t rv;
    off_t before;
    char name[80];
    seen_t seen;

    snprintf(name, sizeof(name), "%s-1.journal", cs_journal_chain(journal));
    append(journal, 1, "fits");
    stat(path_of(name), &file);
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = (rlim_t)file.st_size + 50; /* in the middle of the next entry */
    signal(SIGXFSZ, SIG_IGN);
    fflush(stdout); /* it may be a file, too */
    setrlimit(RLIMIT_FSIZE, &limit);
    before = file.st_size;
    rv = append(journal, 2, "does not");
    stat(path_of(name), &file);
    setrlimit(RLIMIT_FSIZE, &old);
    is_int(rv, APR_FROM_OS_ERROR(EFBIG), "no room: append says so");
    is_int(file.st_size, before, "and takes back what it wrote");
    is_int(append(journal, 4, "fits again"), APR_SUCCESS, "later there is room");
    read_all(journal, &seen);
    ok(seen.facts == 2 && seen.last == 4 && !seen.broken && seen.tip.seq == 2, "the chain knows nothing of it");
    cs_journal_close(journal);
    empty_dir();
}

static void test_sync(void)
{
    cs_journal_t *journal = create(CS_SYNC_ALWAYS);
    struct stat before, after;
    apr_time_t oldest;
    char name[80];
    seen_t seen;
    uint64_t pending;

    snprintf(name, sizeof(name), "%s-1.journal", cs_journal_chain(journal));
    append(journal, 1, "safe");
    stat(path_of(name), &before);
    pending = cs_journal_pending(journal, &oldest);
    sync_fails = 1;
    is_int(append(journal, 2, "unsafe"), APR_FROM_OS_ERROR(EIO), "always: a failing disk fails append");
    sync_fails = 0;
    stat(path_of(name), &after);
    is_int(after.st_size, before.st_size, "what may not be on the disk is taken back");
    is_int(cs_journal_pending(journal, &oldest), pending, "and is not pending");
    syncs = 0;
    is_int(append(journal, 4, "safe"), APR_SUCCESS, "it goes on");
    is_int(syncs, 1, "with one fdatasync");
    read_all(journal, &seen);
    ok(seen.facts == 2 && seen.last == 4 && !seen.broken && seen.tip.seq == 2, "the chain knows nothing of it");
    cs_journal_close(journal);
    empty_dir();

    syncs = 0;
    journal = create(CS_SYNC_SECOND);
    is_int(syncs, 1, "a new segment is on the disk before it is used");
    syncs = 0;
    append(journal, 1, NULL);
    append(journal, 2, NULL);
    is_int(syncs, 0, "second: append does not wait for the disk");
    read_all(journal, &seen);
    is_int(syncs, 1, "but nobody reads, and puts into a database, what is not on it");
    is_int(cs_journal_sync(journal), APR_SUCCESS, "sync");
    is_int(syncs, 1, "has nothing to do then");
    append(journal, 4, NULL);
    sync_fails = 1;
    is_int(cs_journal_sync(journal), APR_FROM_OS_ERROR(EIO), "a failing disk is told");
    sync_fails = 0;
    is_int(cs_journal_sync(journal), APR_SUCCESS, "and asked again");
    cs_journal_close(journal);
    empty_dir();
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct {
    cs_journal_t *journal;
    int thread, pipe;
    int64_t count, first; /* 0: until killed */
    _Atomic int failed;
} appender_t;

enum { THREADS = 3, STEP = 10 };

/* Numbers of one thread ascend: count * STEP + thread. Each success goes to the pipe. */
static void *appender(void *baton)
{
    appender_t *self = baton;

    for (int64_t n = self->first; !self->count || n < self->first + self->count; n++) {
        int64_t number = n * STEP + self->thread;

        if (append(self->journal, number, "from a thread") != APR_SUCCESS) {
            self->failed++;
        }
        else if (self->pipe >= 0 && write(self->pipe, &number, sizeof(number)) != sizeof(number)) {
            break;
        }
    }
    return NULL;
}

static void test_threads(cs_sync_e sync, int64_t count, const char *name)
{
    cs_journal_t *journal = create(sync);
    appender_t appenders[THREADS];
    pthread_t threads[THREADS];
    int64_t last[THREADS] = {-1, -1, -1}, wrong = 0, facts = 0;
    cs_journal_place_t place;
    apr_time_t oldest;
    uint64_t seq = 0;

    for (int i = 0; i < THREADS; i++) {
        appenders[i] = (appender_t){.journal = journal, .thread = i, .pipe = -1, .count = count};
        pthread_create(&threads[i], NULL, appender, &appenders[i]);
    }
    while (facts < count * THREADS) {
        cs_fact_t fact;

        switch (cs_journal_read(journal, &fact, &place, error, sizeof(error))) {
        case CS_JOURNAL_FACT: {
            int64_t thread = fact.number[CS_NUM_AT] % STEP, n = fact.number[CS_NUM_AT] / STEP;

            wrong += n != ++last[thread];
            wrong +=
                fact.link.seq && (fact.link.seq != ++seq || !cs_chain_link_holds(cs_journal_chain(journal), &fact));
            facts++;
            break;
        }
        case CS_JOURNAL_CORRUPT:
            wrong++;
            break;
        case CS_JOURNAL_END:
            if (facts) {
                cs_journal_applied(journal, &place);
                cs_journal_pending(journal, &oldest);
            }
            usleep(100);
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong += appenders[i].failed;
    }
    is_int(wrong, 0, "%s: %d facts of three threads, read and applied meanwhile, in order and unbroken", name,
           (int)facts);
    cs_journal_applied(journal, &place);
    cs_journal_close(journal);
    is_int(count_files(".journal"), 0, "and all goes");
    empty_dir();
}

/* ---- deaths ------------------------------------------------------------------------------------------------------ */

/* Takes the chain over, when there is one, reads on from what it applied last, and appends from three threads until killed. */
static void writer(int pipe, int64_t first)
{
    cs_journal_t *journal = adopt(CS_SYNC_OFF);
    appender_t appenders[THREADS];
    pthread_t threads[THREADS];
    cs_journal_place_t place;
    cs_fact_t fact;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!journal && !(journal = create(CS_SYNC_OFF))) {
        _exit(1);
    }
    for (int i = 0; i < THREADS; i++) {
        appenders[i] = (appender_t){.journal = journal, .thread = i, .pipe = pipe, .first = first};
        pthread_create(&threads[i], NULL, appender, &appenders[i]);
    }
    for (;;) {
        /* A reader is at work, too; nothing is applied, so all of it must be there at the end. */
        cs_journal_read(journal, &fact, &place, error, sizeof(error));
    }
}

static void test_deaths(void)
{
    enum { DEATHS = 220, MANY = 1 << 21 };
    int64_t first = 0, reported = 0, missing = 0, twice = 0, disorder = 0, last[THREADS] = {-1, -1, -1};
    unsigned char *seen = calloc(MANY, 1), *want = calloc(MANY, 1);
    unsigned seed = 1;
    int chains = 0, broken = 0, corrupt = 0, extra = 0, deaths;
    apr_time_t until = apr_time_now() + apr_time_from_sec(20);
    cs_journal_t *journal;

    for (deaths = 0; deaths < DEATHS && apr_time_now() < until; deaths++) {
        int fds[2];
        int64_t number;
        pid_t pid;

        if (pipe(fds) != 0) {
            break;
        }
        fcntl(fds[0], F_SETPIPE_SZ, 1 << 20);
        fflush(stdout);
        pid = fork();
        if (!pid) {
            close(fds[0]);
            writer(fds[1], first);
        }
        close(fds[1]);
        usleep((useconds_t)(rand_r(&seed) % 6000 + 500));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        first++; /* it may have died before its first report */
        while (read(fds[0], &number, sizeof(number)) == sizeof(number)) {
            want[number] = 1;
            reported++;
            if (number / STEP + 2 > first) {
                first = number / STEP + 2; /* one more may have been appended and not reported */
            }
        }
        close(fds[0]);
        if (first * STEP > MANY - 100000) {
            break;
        }
    }
    while ((journal = adopt(CS_SYNC_OFF)) != NULL) {
        cs_journal_place_t place;
        cs_journal_read_e got;
        cs_fact_t fact;
        cs_tip_t tip;

        chains++;
        cs_tip_init(&tip);
        while ((got = cs_journal_read(journal, &fact, &place, error, sizeof(error))) != CS_JOURNAL_END) {
            int64_t number = fact.number[CS_NUM_AT];

            if (got == CS_JOURNAL_CORRUPT) {
                corrupt++;
                printf("# %s\n", error);
                continue;
            }
            twice += seen[number];
            seen[number] = 1;
            disorder += number / STEP <= last[number % STEP];
            last[number % STEP] = number / STEP;
            if (fact.link.seq) {
                broken += fact.link.seq != tip.seq + 1 || strcmp(fact.link.prev_hash, tip.hash) != 0
                          || !cs_chain_link_holds(cs_journal_chain(journal), &fact);
                cs_tip_of(&tip, &fact.link);
            }
        }
        cs_journal_applied(journal, &place);
        cs_journal_close(journal);
    }
    for (int64_t i = 0; i < MANY; i++) {
        missing += want[i] && !seen[i];
        extra += seen[i] && !want[i];
    }
    printf("# %d deaths, %d reported, %d appended and not reported\n", deaths, (int)reported, extra);
    ok(deaths > 50 && reported > 1000, "writers have died at work");
    is_int(chains, 1, "they wrote one chain");
    is_int(missing, 0, "every fact that was reported as appended is there");
    is_int(twice, 0, "once");
    is_int(disorder, 0, "in order");
    is_int(broken, 0, "the chain is unbroken");
    is_int(corrupt, 0, "and a torn end is not damage");
    free(seen);
    free(want);
    empty_dir();
}

/* Eight processes want one chain. Whoever has it appends CLOSE and dies, or holds it. */
static void test_competitors(void)
{
    enum { ROUNDS = 60, RIVALS = 4 };
    int winners_wrong = 0, wrong = 0;
    seen_t seen;

    for (int round = 0; round < ROUNDS; round++) {
        cs_journal_t *journal = create(CS_SYNC_OFF);
        int won = 0, go[2], tried[2]; /* tried: a byte from each that did not get it */
        pid_t pids[RIVALS];

        append(journal, 1, NULL);
        cs_journal_close(journal);
        if (pipe(go) != 0 || pipe(tried) != 0) {
            break;
        }
        fflush(stdout);
        for (int i = 0; i < RIVALS; i++) {
            if (!(pids[i] = fork())) {
                char c;

                close(go[1]);
                if (read(go[0], &c, 1) == 0 && (journal = adopt(CS_SYNC_OFF)) != NULL) {
                    int bad = append(journal, 2 + round, "close") != APR_SUCCESS;

                    /* Odd ones finish the chain, so that late rivals meet a lock file that is just going. */
                    if (round % 2) {
                        read_all(journal, &seen);
                        bad = bad || seen.facts != 2 || seen.broken;
                        cs_journal_applied(journal, &seen.end);
                        cs_journal_close(journal);
                    }
                    else {
                        char others[RIVALS];

                        close(tried[1]);                   /* one that died without a word is an end of file */
                        for (int k = 1; k < RIVALS; k++) { /* holds it until all have tried */
                            bad = bad || read(tried[0], others, 1) != 1;
                        }
                    }
                    _exit(bad ? 2 : 1);
                }
                _exit(write(tried[1], "", 1) == 1 ? 0 : 3);
            }
        }
        close(go[0]);
        close(go[1]);
        close(tried[1]);
        for (int i = 0; i < RIVALS; i++) {
            int status;

            waitpid(pids[i], &status, 0);
            won += WIFEXITED(status) && WEXITSTATUS(status) == 1;
            wrong += !WIFEXITED(status) || WEXITSTATUS(status) > 1;
        }
        winners_wrong += won != 1;
        if (round % 2 == 0) {
            /* The adopter died after it appended: the next one has both. */
            wrong += !drain(&seen) || seen.facts != 2 || seen.broken || seen.last != 2 + round || seen.tip.seq < 1;
        }
        close(tried[0]);
        wrong += count_files(".lock") != 0 || count_files(".journal") != 0;
        empty_dir();
    }
    is_int(winners_wrong, 0, "of several adopters exactly one gets the chain");
    is_int(wrong, 0, "and what an adopter appended before it died is there for the next");
}

static char contested[80];
static int contested_fd;

/* The owner ends the chain; somebody else comes and locks a file of the same name. */
static void owner_changes(void)
{
    unlink(path_of(contested));
    contested_fd = open(path_of(contested), O_RDWR | O_CREAT, 0600);
    flock(contested_fd, LOCK_EX);
}

static void test_lock_file_changes(void)
{
    cs_journal_t *journal = create(CS_SYNC_OFF);

    append(journal, 1, NULL);
    snprintf(contested, sizeof(contested), "%s.lock", cs_journal_chain(journal));
    cs_journal_close(journal);
    before_flock = owner_changes;
    ok(!adopt(CS_SYNC_OFF), "a lock on a file that is not there any more is none");
    close(contested_fd);
    ok((journal = adopt(CS_SYNC_OFF)) != NULL, "when that one has gone, the chain is free");
    cs_journal_close(journal);
    empty_dir();
}

/* ---- speed: JOURNAL_SPEED=1 --------------------------------------------------------------------------------------- */

static void *fast(void *baton)
{
    appender_t *self = baton;
    char message[301];

    memset(message, 'm', 300);
    message[300] = '\0';
    for (int64_t i = 0; i < self->count; i++) {
        cs_fact_t fact;

        cs_fact_init(&fact, CS_FACT_OPEN);
        fact.number[CS_NUM_WANTS] = self->thread ? 7 : 3;
        fact.number[CS_NUM_AT] = i;
        cs_fact_set(&fact, CS_TXT_EVENT, "stream_open");
        cs_fact_set(&fact, CS_TXT_STREAM_ID, "0190a5c4-7e1b-7abc-8def-0123456789ab");
        cs_fact_set(&fact, CS_TXT_PROFILE, "chat");
        cs_fact_set(&fact, CS_TXT_USER_KEY, "user-4711");
        cs_fact_set(&fact, CS_TXT_USER_EMAIL, "somebody@example.org");
        cs_fact_set(&fact, CS_TXT_UPSTREAM, "upstream-1");
        cs_fact_set(&fact, CS_TXT_STATUS, "active");
        cs_fact_set(&fact, CS_TXT_MESSAGE, message);
        cs_journal_append(self->journal, &fact);
    }
    return NULL;
}

static void measure(int audit, int threads)
{
    enum { COUNT = 40000 };
    cs_journal_t *journal = create(CS_SYNC_OFF);
    appender_t self = {.journal = journal, .thread = audit, .count = COUNT};
    pthread_t ids[2];
    apr_time_t begin = cs_clock_mono(), middle;
    seen_t seen;

    for (int i = 0; i < threads; i++) {
        pthread_create(&ids[i], NULL, fast, &self);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    middle = cs_clock_mono();
    for (seen.facts = 0;; seen.facts++) {
        cs_fact_t fact;

        if (cs_journal_read(journal, &fact, &seen.end, error, sizeof(error)) == CS_JOURNAL_END) {
            break;
        }
    }
    printf("# %s, %d threads: %.2f us per append, %.2f us per read\n", audit ? "audit" : "no audit", threads,
           (double)(middle - begin) / COUNT / threads, (double)(cs_clock_mono() - middle) / seen.facts);
    cs_journal_applied(journal, &seen.end);
    cs_journal_close(journal);
    empty_dir();
}

int main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/test_journal.XXXXXX");
    if (!mkdtemp(dir)) {
        return 1;
    }
    if (getenv("JOURNAL_SPEED")) {
        for (int i = 0; i < 4; i++) {
            measure(i % 2, 1 + i / 2);
        }
        rmdir(dir);
        return 0;
    }
    test_basics(CS_SYNC_OFF, "off");
    test_basics(CS_SYNC_SECOND, "second");
    test_basics(CS_SYNC_ALWAYS, "always");
    test_refused();
    test_planted_word();
    test_growth();
    test_anchors();
    test_cut();
    test_flips();
    test_crashed_rotation();
    test_full(CS_SYNC_OFF);
    test_full(CS_SYNC_ALWAYS);
    test_sync();
    test_threads(CS_SYNC_OFF, 10000, "off");
    test_threads(CS_SYNC_SECOND, 2000, "second");
    test_threads(CS_SYNC_ALWAYS, 500, "always");
    test_deaths();
    test_competitors();
    test_lock_file_changes();
    is_int(rmdir(dir), 0, "the directory is empty");
    return done_testing();
}

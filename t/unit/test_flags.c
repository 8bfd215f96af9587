/* SPDX-License-Identifier: Apache-2.0 */
/* The flag file: what it may say, what happens when it changes, breaks or goes, and that no reader ever sees half of it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chatstream/gate.h"
#include "tap.h"

static char path[] = "/tmp/chatstream-flags-XXXXXX";
static char why[200];

static cs_gate_t *make_gate(void)
{
    cs_gate_t *gate;

    if (cs_gate_create(&gate, 0)) {
        printf("Bail out! no gate\n");
        exit(1);
    }
    return gate;
}

static void write_bytes(const char *text, size_t len)
{
    char next[sizeof(path) + 8];
    FILE *file;

    snprintf(next, sizeof(next), "%s.new", path);
    file = fopen(next, "w");
    if (!file || fwrite(text, 1, len, file) != len || fclose(file) || rename(next, path)) {
        printf("Bail out! cannot write %s\n", next);
        exit(1);
    }
}

static void write_file(const char *text)
{
    write_bytes(text, strlen(text));
}

/* In place: the same inode. */
static void overwrite(const char *text)
{
    int fd = open(path, O_WRONLY);

    if (fd < 0 || pwrite(fd, text, strlen(text), 0) != (ssize_t)strlen(text)) {
        printf("Bail out! cannot write %s\n", path);
        exit(1);
    }
    close(fd);
}

static int look(cs_gate_t *gate)
{
    return (int)cs_flags_look(gate, path, why, sizeof(why));
}

static int in_force(cs_gate_t *gate, const char *profile, int enabled, int share)
{
    cs_flags_t flags;

    cs_flags_of(gate, profile, &flags);
    if (flags.enabled != enabled || flags.share != share) {
        printf("#   enabled %d, share %d\n", flags.enabled, flags.share);
    }
    return flags.enabled == enabled && flags.share == share;
}

static int printable(const char *text)
{
    while (*text >= 0x20 && *text < 0x7f) {
        text++;
    }
    return !*text;
}

/* ---- what it may say --------------------------------------------------------------------------------------------- */

static void test_good_files(void)
{
    static const struct {
        const char *text;
        int enabled, share;     /* in general */
        int p_enabled, p_share; /* of profile "p" */
    } files[] = {
        {"{}", -1, -1, -1, -1},
        {" \r\n\t{ } \n", -1, -1, -1, -1},
        {"{\"enabled\":true}", 1, -1, 1, -1},
        {"{\"enabled\":false,\"rollout\":25}", 0, 2500, 0, 2500},
        {"{\"rollout\":0}", -1, 0, -1, 0},
        {"{\"rollout\":-0}", -1, 0, -1, 0},
        {"{\"rollout\":100}", -1, 10000, -1, 10000},
        {"{\"rollout\":100.00}", -1, 10000, -1, 10000},
        {"{\"rollout\":0.01}", -1, 1, -1, 1},
        {"{\"rollout\":0.29}", -1, 29, -1, 29},
        {"{\"rollout\":1.005e1}", -1, 1005, -1, 1005},
        {"{\"rollout\":99.99}", -1, 9999, -1, 9999},
        {"{\"profiles\":{}}", -1, -1, -1, -1},
        {"{\"profiles\":{\"p\":{}}}", -1, -1, -1, -1},
        {"{\"enabled\":true,\"rollout\":25,\"profiles\":{\"q\":{\"rollout\":7},\"p\":{\"rollout\":5,\"enabled\":false}}}",
         1, 2500, 0, 500},
        {"{\"profiles\":{\"p\":{\"rollout\":5}},\"enabled\":false}", 0, -1, 0, 500},
        {"{\"rollout\":50,\"profiles\":{\"\\u0070\":{\"enabled\":true}}}", -1, 5000, 1, 5000},
        {"{\"profiles\":{\":{},\\\"\":{\"rollout\":5}}}", -1, -1, -1, -1},
    };
    unsigned i;

    for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        cs_gate_t *gate = make_gate();

        write_file(files[i].text);
        if (!ok(cs_flags_load(gate, path, why, sizeof(why)) == CS_FLAGS_CHANGED, "taken: %s",
                printable(files[i].text) ? files[i].text : "white space")) {
            printf("#   %s\n", why);
        }
        ok(in_force(gate, "other", files[i].enabled, files[i].share)
               && in_force(gate, NULL, files[i].enabled, files[i].share)
               && in_force(gate, "p", files[i].p_enabled, files[i].p_share),
           "and understood");
        cs_gate_destroy(gate);
    }
}

static void is_refused(cs_gate_t *gate, const char *text, size_t len, const char *what)
{
    write_bytes(text, len);
    memset(why, 0, sizeof(why));
    ok(cs_flags_load(gate, path, why, sizeof(why)) == CS_FLAGS_BROKEN && why[0] && printable(why), "refused: %s (%s)",
       what, why);
}

static void test_bad_files(void)
{
    static const char *const files[] = {
        "[]",
        "null",
        "true",
        "25",
        "\"enabled\"",
        "{",
        "}",
        "{}{}",
        "{} x",
        "{},",
        "{\"enabled\":true,}",
        "{\"enabled\" true}",
        "{enabled:true}",
        "{'enabled':true}",
        "{\"enabled\":True}",
        "{\"enabled\":TRUE}",
        "{\"enabled\":1}",
        "{\"enabled\":\"true\"}",
        "{\"enabled\":null}",
        "{\"enable\":true}",
        "{\"Enabled\":true}",
        "{\"rollout\":\"25\"}",
        "{\"rollout\":true}",
        "{\"rollout\":null}",
        "{\"rollout\":[25]}",
        "{\"rollout\":-1}",
        "{\"rollout\":-0.01}",
        "{\"rollout\":100.01}",
        "{\"rollout\":101}",
        "{\"rollout\":25.555}",
        "{\"rollout\":0.001}",
        "{\"rollout\":1e-3}",
        "{\"rollout\":1e400}",
        "{\"rollout\":99999999999999999999999}",
        "{\"rollout\":NaN}",
        "{\"rollout\":-NaN}",
        "{\"rollout\":Infinity}",
        "{\"rollout\":-Infinity}",
        "{\"rollout\":025}",
        "{\"rollout\":+25}",
        "{\"rollout\":.5}",
        "{\"rollout\":5.}",
        "{\"rollout\":5e}",
        "{\"rollout\":0x10}",
        "{\"rollout\":1-2}",
        "{\"rollout\":1.2.3}",
        "{\"rollout\":25%}",
        "{\"rollout\":-}",
        "{\"profiles\":[]}",
        "{\"profiles\":{\"p\":5}}",
        "{\"profiles\":{\"\":{}}}",
        "{\"profiles\":{\"p\":{\"profiles\":{}}}}",
        "{\"profiles\":{\"p\":{\"x\":1}}}",
        "{\"profiles\":{\"p\":{\"rollout\":500}}}",
        "{\"enabled\":true,\"enabled\":true}",
        "{\"enabled\":true,\"en\\u0061bled\":false}",
        "{\"profiles\":{\"p\":{},\"p\":{\"rollout\":5}}}",
        "{\"profiles\":{\"p\":{\"rollout\":5,\"rollout\":6}}}",
        "{\"profiles\":{\"p\":{}},\"profiles\":{}}",
        "{\"enabled\\u0000x\":true}",
        "{\"profiles\":{\"p\\u0000\":{}}}",
        "{\"profiles\":{\"a\tb\":{}}}",
        "{\"profiles\":{\"a\\xb\":{}}}",
        "{\"profiles\":{\"a\\u00g0\":{}}}",
        "{/**/\"enabled\":true}",
        "{\"enabled\":true}//",
        "\xef\xbb\xbf{}",
        "{\"profiles\":{\"\xff\":{}}}",
        "{\"enabled\":true",
        "{\"enabl",
        "{\"a\\",
        "{\"enabled\":tru",
        "{\"rollout\":2",
        "{\"enabled\"}",
        "{\"enabled\":}",
        "{:true}",
        "{,}",
        "{\"a\n\":1}",
        "{\"\x1b[31m\nx\":1}",
        "{\"enabled\":true \"rollout\":5}",
        "{\"enabled\":truefalse}",
        "{\"profiles\":{\"p\":{}}]",
    };
    cs_gate_t *gate = make_gate();
    char *big = calloc(1, 70000), name[140];
    unsigned i, len;

    for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        is_refused(gate, files[i], strlen(files[i]), printable(files[i]) ? files[i] : "what cannot be shown");
    }
    is_refused(gate, "", 0, "nothing");
    is_refused(gate, "{}\0", 3, "a NUL behind");
    is_refused(gate, "{\"enabled\0\":true}", 17, "a NUL inside");
    memset(big, '[', 60000);
    is_refused(gate, big, 60000, "very deep");
    memset(big, ' ', 70000);
    memcpy(big, "{}", 2);
    is_refused(gate, big, 65537, "a byte too large");
    write_bytes(big, 65536);
    is_int(cs_flags_load(gate, path, why, sizeof(why)), CS_FLAGS_CHANGED, "one that just fits is taken");
    for (i = 126; i < 130; i++) {
        memset(name, 'n', sizeof(name));
        name[i] = '\0';
        snprintf(big, 70000, "{\"profiles\":{\"%s\":{\"rollout\":%u}}}", name, i - 100);
        write_file(big);
        if (i > 127) {
            is_int(cs_flags_load(gate, path, why, sizeof(why)), CS_FLAGS_BROKEN, "a name of %u bytes is refused", i);
        }
        else {
            cs_flags_load(gate, path, why, sizeof(why));
            ok(in_force(gate, name, -1, ((int)i - 100) * 100), "a name of %u bytes", i);
        }
    }
    for (i = 64; i < 66; i++) {
        unsigned p;

        len = (unsigned)snprintf(big, 70000, "{\"profiles\":{");
        for (p = 0; p < i; p++) {
            len += (unsigned)snprintf(big + len, 70000 - len, "%s\"p%u\":{\"rollout\":%u}", p ? "," : "", p, p);
        }
        snprintf(big + len, 70000 - len, "}}");
        write_file(big);
        is_int(cs_flags_load(gate, path, why, sizeof(why)), i == 64 ? CS_FLAGS_CHANGED : CS_FLAGS_BROKEN, "%u profiles",
               i);
        ok(in_force(gate, "p63", -1, 6300) && in_force(gate, "p0", -1, 0) && in_force(gate, "p64", -1, -1),
           "of which each has its own");
    }
    free(big);
    cs_gate_destroy(gate);
}

/* ---- one look after another -------------------------------------------------------------------------------------- */

static void test_looks(void)
{
    cs_gate_t *gate = make_gate();

    ok(in_force(gate, "p", -1, -1) && !cs_flags_are_broken(gate), "nothing is overridden before the first look");
    write_file("{\"enabled\":true}");
    is_int(look(gate), CS_FLAGS_CHANGED, "a new file");
    ok(in_force(gate, "p", 1, -1), "is in force at once");
    is_int(look(gate), CS_FLAGS_SAME, "it is as it was");
    write_file("{ \"enabled\": true }");
    is_int(look(gate), CS_FLAGS_SAME, "the same in other words is nothing to tell");
    overwrite("{ \"enabled\":false }");
    is_int(look(gate), CS_FLAGS_CHANGED, "an edit of the same size, in the same second, in the same file");
    ok(in_force(gate, "p", 0, -1), "is seen");

    write_file("{\"enabled\":");
    is_int(look(gate), CS_FLAGS_SAME, "half a file may be somebody writing");
    is_str(why, "", "and is not spoken of");
    write_file("{\"enabled\":false,\"rollout\":5}");
    is_int(look(gate), CS_FLAGS_CHANGED, "who then has written");
    write_file("{\"enabled\":");
    is_int(look(gate), CS_FLAGS_SAME, "half a file again");
    ok(!cs_flags_are_broken(gate), "is not broken yet");
    is_int(look(gate), CS_FLAGS_BROKEN, "unless it stays so");
    ok(why[0] && cs_flags_are_broken(gate), "which is told: %s", why);
    ok(in_force(gate, "p", 0, 500), "the last good state holds");
    is_int(look(gate), CS_FLAGS_SAME, "told once");
    write_file("{\"enabled\":");
    is_int(look(gate), CS_FLAGS_SAME, "for each content, not each file");
    write_file("{\"rollout\":500}");
    is_int(look(gate), CS_FLAGS_BROKEN, "another content is told");
    ok(cs_flags_are_broken(gate) && strstr(why, "rollout"), "with what is wrong: %s", why);
    write_file("{\"enabled\":false,\"rollout\":5}");
    is_int(look(gate), CS_FLAGS_CHANGED, "mended, though its values are the old ones");
    ok(!cs_flags_are_broken(gate) && in_force(gate, "p", 0, 500), "all is well");
    is_int(look(gate), CS_FLAGS_SAME, "told once, too");

    unlink(path);
    is_int(look(gate), CS_FLAGS_SAME, "away for a moment");
    write_file("{\"enabled\":false,\"rollout\":5}");
    is_int(look(gate), CS_FLAGS_SAME, "and back");
    unlink(path);
    look(gate);
    write_file("{");
    is_int(look(gate), CS_FLAGS_SAME, "first away, then broken: neither twice");
    unlink(path);
    is_int(look(gate), CS_FLAGS_SAME, "away again for the first time");
    ok(in_force(gate, "p", 0, 500), "the old state holds");
    is_int(look(gate), CS_FLAGS_GONE, "away twice is gone");
    ok(why[0] && in_force(gate, "p", -1, -1), "nothing is overridden (%s)", why);
    is_int(look(gate), CS_FLAGS_SAME, "told once");
    write_file("{}");
    is_int(look(gate), CS_FLAGS_CHANGED, "a file again");
    write_file("nonsense");
    look(gate);
    look(gate);
    unlink(path);
    look(gate);
    is_int(look(gate), CS_FLAGS_GONE, "a broken file goes");
    ok(!cs_flags_are_broken(gate), "and so does its being broken");
    mkdir(path, 0700);
    look(gate);
    is_int(look(gate), CS_FLAGS_BROKEN, "a directory is broken: %s", why);
    rmdir(path);
    mkfifo(path, 0600);
    look(gate);
    ok(look(gate) == CS_FLAGS_BROKEN || cs_flags_are_broken(gate), "a pipe keeps nobody waiting: %s", why);
    unlink(path);
    cs_gate_destroy(gate);
}

static void test_loads(void)
{
    static const char other[] = "/tmp/chatstream-no-such-file";
    cs_gate_t *gate = make_gate();

    write_file("{\"rollout\":");
    is_int(cs_flags_load(gate, path, why, sizeof(why)), CS_FLAGS_BROKEN, "broken at start-up is told at once");
    ok(cs_flags_are_broken(gate) && in_force(gate, "p", -1, -1), "nothing is overridden");
    is_int(look(gate), CS_FLAGS_SAME, "and not told again by a look");
    write_file("{\"rollout\":7}");
    is_int(look(gate), CS_FLAGS_CHANGED, "mended");
    is_int(cs_flags_load(gate, path, why, sizeof(why)), CS_FLAGS_SAME, "a restart changes nothing");
    write_file("{\"rollout\":");
    is_int(cs_flags_load(gate, path, why, sizeof(why)), CS_FLAGS_BROKEN, "broken at a restart");
    ok(in_force(gate, "p", -1, 700), "what was in force stays");
    unlink(path);
    is_int(cs_flags_load(gate, path, why, sizeof(why)), CS_FLAGS_GONE, "gone at a restart");
    ok(in_force(gate, "p", -1, -1), "is gone at once");
    write_file("{\"rollout\":8}");
    look(gate);
    is_int(cs_flags_load(gate, other, why, sizeof(why)), CS_FLAGS_GONE, "another file from now on");
    is_int(look(gate), CS_FLAGS_SAME, "a child of before does not bring the old one back");
    ok(in_force(gate, "p", -1, -1), "nor its values");
    cs_flags_load(gate, path, why, sizeof(why));
    ok(in_force(gate, "p", -1, 800), "but a restart does");
    cs_flags_clear(gate);
    ok(in_force(gate, "p", -1, -1), "no file any more");
    is_int(look(gate), CS_FLAGS_SAME, "whatever a child of before still sees");
    ok(in_force(gate, "p", -1, -1), "changes nothing");
    cs_gate_destroy(gate);
}

/* Clocks of file systems are coarse: many of these edits leave size, times and inode as they were. */
static void test_quick_edits(void)
{
    cs_gate_t *gate = make_gate();
    unsigned i, missed = 0;

    write_file("{\"enabled\":true }");
    look(gate);
    for (i = 0; i < 2000; i++) {
        cs_flags_t flags;

        overwrite(i & 1 ? "{\"enabled\":true }" : "{\"enabled\":false}");
        missed += look(gate) != CS_FLAGS_CHANGED;
        cs_flags_of(gate, "p", &flags);
        missed += flags.enabled != (int)(i & 1);
    }
    is_int(missed, 0, "no edit is missed, however soon after a look");
    usleep(2100000);
    ok(look(gate) == CS_FLAGS_SAME && look(gate) == CS_FLAGS_SAME, "a file that has settled is not read again");
    overwrite("{\"enabled\":false}");
    is_int(look(gate), CS_FLAGS_CHANGED, "until it is edited");
    cs_gate_destroy(gate);
}

/* ---- readers against publishers that die ------------------------------------------------------------------------- */

enum { PUBLISHERS = 2, READERS = 2, READ_THREADS = 2, DEATHS = 250 };

typedef struct {
    cs_gate_t *gate;
    _Atomic int stop;
    _Atomic unsigned torn, reads, changes;
} scene_t;

/* Two states: each profile, and the general members, say which; "last" exists in one of them only. */
static void write_state(int which)
{
    char text[4096];
    int len = snprintf(text, sizeof(text), "{\"enabled\":%s,\"rollout\":%d,\"profiles\":{", which ? "true" : "false",
                       which ? 75 : 25);
    int i;

    for (i = 0; i < 50; i++) {
        int p = which ? 49 - i : i; /* elsewhere in the table */

        len += snprintf(text + len, sizeof(text) - (size_t)len, "\"p%d\":{\"rollout\":%d,\"enabled\":%s},", p,
                        which ? 80 : 20, which ? "true" : "false");
    }
    snprintf(text + len, sizeof(text) - (size_t)len, "\"%s\":{}}}", which ? "last" : "first");
    write_file(text);
}

static int whole(const cs_flags_t *flags, int share)
{
    return flags->enabled == 0 ? flags->share == share : flags->enabled == 1 && flags->share == 10000 - share;
}

static void *read_thread(void *data)
{
    scene_t *scene = data;
    unsigned reads = 0;
    char profile[8];

    while (!scene->stop) {
        cs_flags_t flags;

        snprintf(profile, sizeof(profile), "p%u", reads % 50);
        cs_flags_of(scene->gate, profile, &flags);
        scene->torn += !whole(&flags, 2000);
        cs_flags_of(scene->gate, reads % 2 ? "last" : "nobody", &flags);
        scene->torn += !whole(&flags, 2500);
        reads++;
    }
    scene->reads += reads;
    return NULL;
}

static void read_along(scene_t *scene)
{
    pthread_t threads[READ_THREADS];
    int i;

    for (i = 0; i < READ_THREADS; i++) {
        pthread_create(&threads[i], NULL, read_thread, scene);
    }
    for (i = 0; i < READ_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    _exit(0);
}

/* The first flips the file; all of them look, as fast as they can. */
static void publish_along(scene_t *scene, int who)
{
    unsigned i;

    for (i = (unsigned)getpid();; i++) {
        if (!who) {
            write_state(i & 1);
        }
        scene->changes += look(scene->gate) == CS_FLAGS_CHANGED;
    }
}

static pid_t start(scene_t *scene, void (*run)(scene_t *), int who)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (run) {
            run(scene);
        }
        publish_along(scene, who);
    }
    return pid;
}

static void test_deaths(void)
{
    scene_t *scene = mmap(NULL, sizeof(*scene), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t readers[READERS], publishers[PUBLISHERS];
    int i, k, status, bad = 0;
    unsigned seed = 7;
    cs_flags_t flags;

    scene->gate = make_gate();
    write_state(0);
    cs_flags_load(scene->gate, path, why, sizeof(why));
    for (i = 0; i < READERS; i++) {
        readers[i] = start(scene, read_along, 0);
    }
    for (i = 0; i < PUBLISHERS; i++) {
        publishers[i] = start(scene, NULL, i);
    }
    for (k = 0; k < DEATHS; k++) {
        i = k % PUBLISHERS;
        usleep((useconds_t)(rand_r(&seed) % 10000));
        kill(publishers[i], SIGKILL);
        waitpid(publishers[i], &status, 0);
        bad += !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
        publishers[i] = start(scene, NULL, i);
    }
    for (i = 0; i < PUBLISHERS; i++) {
        kill(publishers[i], SIGKILL);
        waitpid(publishers[i], NULL, 0);
    }
    scene->stop = 1;
    for (i = 0; i < READERS; i++) {
        bad += waitpid(readers[i], &status, 0) != readers[i] || status;
    }
    printf("# %u reads, %u changes, %d deaths\n", scene->reads, scene->changes, DEATHS);
    is_int(bad, 0, "no child ends but by our hand");
    is_int(scene->torn, 0, "no reader saw half a state");
    ok(scene->reads > 1000 && scene->changes > 100, "there was something to see");
    for (i = 0; i < 4; i++) {
        write_state(i & 1);
        look(scene->gate);
        cs_flags_of(scene->gate, "p7", &flags);
        is_int(flags.share, i & 1 ? 8000 : 2000, "after all the deaths looks work as ever");
    }
    cs_gate_destroy(scene->gate);
    munmap(scene, sizeof(*scene));
}

int main(void)
{
    int fd = mkstemp(path);

    close(fd);
    test_good_files();
    test_bad_files();
    test_looks();
    test_loads();
    test_quick_edits();
    test_deaths();
    unlink(path);
    strcat(strcpy(why, path), ".new"); /* of a publisher that died writing */
    unlink(why);
    return done_testing();
}

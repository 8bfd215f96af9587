/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay: runs a fuzz target over its corpus, and over every prefix of every file, as an ordinary TAP test.
 *
 *     t/fuzz/fuzz_sse [DIRECTORY]      default: corpus/<name of the program> beside this source
 *
 * A missing or empty directory is a failure, not an empty test.
 */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "tap.h"

#define FILE_MAX ((size_t)1 << 20)

/* From memory of exactly this size, so that ASan sees a byte read too far. */
static void run(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, bytes, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void replay(const char *directory, const char *name)
{
    char path[8192];
    uint8_t *bytes = malloc(FILE_MAX);
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL || bytes == NULL) {
        ok(0, "%s can be read", path);
        free(bytes);
        return;
    }
    size_t len = fread(bytes, 1, FILE_MAX, file);
    fclose(file);
    run(bytes, len);
    /* Long files would take the square of their length. */
    for (size_t prefix = 0; prefix < len && prefix < 600; prefix++) {
        run(bytes, prefix);
    }
    /* The first byte is the target's settings: every cut and limit it can choose. */
    for (int first = 0; len > 0 && first < 256; first++) {
        bytes[0] = (uint8_t)first;
        run(bytes, len);
    }
    ok(1, "%s", name); /* what is wrong aborts */
    free(bytes);
}

/* The program's name without libtool's prefix. */
static const char *base_name(const char *program)
{
    const char *slash = strrchr(program, '/');
    const char *name = slash ? slash + 1 : program;
    return strncmp(name, "lt-", 3) == 0 ? name + 3 : name;
}

static int is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Beside the program when built in place, else where make or a person started it. */
static void find_corpus(char *path, size_t size, const char *program)
{
    const char *srcdir = getenv("srcdir");
    const char *slash = strrchr(program, '/');
    snprintf(path, size, "t/fuzz/corpus/%s", base_name(program));
    if (!is_directory(path)) {
        snprintf(path, size, "%s/t/fuzz/corpus/%s", srcdir ? srcdir : ".", base_name(program));
    }
    if (!is_directory(path) && slash != NULL) {
        snprintf(path, size, "%.*s/corpus/%s", (int)(slash - program), program, base_name(program));
    }
}

int main(int argc, char **argv)
{
    char path[4096];
    if (argc > 1) {
        snprintf(path, sizeof(path), "%s", argv[1]);
    }
    else {
        find_corpus(path, sizeof(path), argv[0]);
    }
    struct dirent **names = NULL;
    int n = scandir(path, &names, NULL, alphasort);
    int files = 0;
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.') {
            replay(path, names[i]->d_name);
            files++;
        }
        free(names[i]);
    }
    free(names);
    ok(files > 0, "%s holds a corpus", path);
    return done_testing();
}

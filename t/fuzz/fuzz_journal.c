/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_journal: a state directory somebody has been at. The first byte: bits 0-1 how the rest becomes a segment, bit 2 a .done before
 * it (24 bytes of input say what it says), bit 3 a second segment, 4 a torn .head.
 *   0  as it is
 *   1  a good head, then the input
 *   2  a good head, then pieces (length byte, bytes) as entries with the right sums, so that decode is reached
 *   3  as 2, then what is left over raw
 * Whatever it is: listing changes nothing, what is adopted can be read to its end, written to and given up, the same each time.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "record/journal_dir.h"
#include "record/journal_entry.h"

#define CHAIN "0190a5c4-7e1b-7abc-8def-0123456789ab"

static char dir[64];
static int dir_fd = -1;

static void remove_dir(void)
{
    rmdir(dir);
}

static void empty_dir(void)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;

    while (stream && (entry = readdir(stream)) != NULL) {
        unlinkat(dir_fd, entry->d_name, 0);
    }
    closedir(stream);
}

static void write_segment(uint64_t number, const cs_buf_t *bytes)
{
    int fd = cs_dir_open_file(dir_fd, CHAIN, CS_FILE_SEGMENT, number, O_RDWR | O_CREAT | O_TRUNC);

    FUZZ_CHECK(fd >= 0 && cs_dir_write(fd, bytes->data, bytes->len, 0) == APR_SUCCESS);
    close(fd);
}

static void good_head(cs_buf_t *out, uint64_t number)
{
    cs_segment_head_t head = {.number = number, .created = 1, .node = "fuzz"};
    char bytes[CS_SEGMENT_HEAD];

    cs_uuid_parse(&head.chain, CHAIN, CS_UUID_LEN);
    cs_tip_init(&head.tip);
    cs_segment_head_put(bytes, &head);
    FUZZ_CHECK(cs_buf_append(out, bytes, sizeof(bytes)) == APR_SUCCESS);
}

static void make_segment(cs_buf_t *out, int mode, const char *data, size_t size)
{
    if (mode > 0) {
        good_head(out, 1);
    }
    while (mode >= 2 && size > 1) {
        size_t len = (unsigned char)*data;
        char head[CS_ENTRY_HEAD];

        data++;
        size--;
        len = len < size ? len : size;
        if (mode == 3 && len == 0) {
            break;
        }
        cs_entry_head_put(head, data, len, 1);
        cs_buf_append(out, head, sizeof(head));
        cs_buf_append(out, data, len);
        data += len;
        size -= len;
    }
    cs_buf_append(out, data, size);
}

static int count(void *baton, const char *chain, const cs_journal_place_t *place, const cs_fact_t *fact, int applied,
                 const char *note)
{
    FUZZ_CHECK(!strcmp(chain, CHAIN) && place->segment >= 1 && !fact != !note);
    *(int *)baton += fact && !applied;
    return 0;
}

static int read_all(cs_journal_t *journal, cs_journal_place_t *end, int *corrupt)
{
    cs_journal_read_e got;
    char error[512];
    cs_fact_t fact;
    int facts = 0;

    while ((got = cs_journal_read(journal, &fact, end, error, sizeof(error))) != CS_JOURNAL_END) {
        facts += got == CS_JOURNAL_FACT;
        *corrupt += got == CS_JOURNAL_CORRUPT;
        FUZZ_CHECK(facts + *corrupt < 1 << 20);
    }
    return facts;
}

/* `exact`: .done is between two entries, as a writer leaves it; within one, that one is told as damage. */
static void play(cs_journal_t *journal, int listed, int exact)
{
    cs_journal_place_t end = {0, 0};
    int corrupt = 0, again = 0, facts;
    apr_time_t oldest;
    cs_fact_t fact;

    cs_fact_init(&fact, CS_FACT_INCIDENT);
    fact.number[CS_NUM_WANTS] = CS_WANT_AUDIT;
    cs_fact_set(&fact, CS_TXT_EVENT, "denied");
    FUZZ_CHECK(cs_journal_append(journal, &fact) == APR_SUCCESS && fact.link.seq > 0);
    facts = read_all(journal, &end, &corrupt);
    FUZZ_CHECK(exact ? facts == listed + 1 : facts >= 1 && facts <= listed + 1);
    cs_journal_rewind(journal);
    FUZZ_CHECK(read_all(journal, &end, &again) == facts && again == 0);
    FUZZ_CHECK(cs_journal_applied(journal, &end) == APR_SUCCESS);
    FUZZ_CHECK(cs_journal_pending(journal, &oldest) == 0 && oldest == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cs_journal_options_t options = {.dir = dir, .node = "fuzz", .sync = CS_SYNC_OFF};
    const char *input = (const char *)data;
    char error[512];
    int first, listed = 0, again = 0;
    cs_journal_t *journal;
    cs_done_t done;
    cs_buf_t bytes;
    apr_status_t rv;

    if (size == 0) {
        return 0;
    }
    if (dir_fd < 0) {
        strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz_journal.XXXXXX" : "/tmp/fuzz_journal.XXXXXX");
        FUZZ_CHECK(mkdtemp(dir) && cs_dir_open(&dir_fd, dir) == APR_SUCCESS);
        atexit(remove_dir);
    }
    first = *data;
    input++;
    size--;
    cs_buf_init(&bytes, SIZE_MAX);
    if (first & 4 && size > 24) {
        int fd = cs_dir_open_file(dir_fd, CHAIN, CS_FILE_DONE, 0, O_RDWR | O_CREAT | O_TRUNC);

        memset(&done, 0, sizeof(done));
        cs_tip_init(&done.tip);
        done.place.segment = (unsigned char)input[0] % 4;
        done.place.offset = (unsigned char)input[1] | (unsigned)(unsigned char)input[2] << 8;
        done.tip.seq = (unsigned char)input[3];
        cs_dir_done_write(fd, &done);
        close(fd);
        input += 24;
        size -= 24;
    }
    make_segment(&bytes, first & 3, input, size);
    write_segment(1, &bytes);
    if (first & 8) {
        bytes.len = 0;
        good_head(&bytes, 2);
        cs_buf_append(&bytes, input, size);
        write_segment(2, &bytes);
    }
    if (first & 16) {
        int fd = cs_dir_open_file(dir_fd, CHAIN, CS_FILE_HEAD, 0, O_RDWR | O_CREAT | O_TRUNC);

        cs_dir_write(fd, input, size < 100 ? size : 100, 0);
        close(fd);
    }
    FUZZ_CHECK(cs_journal_list(dir, count, &listed, error, sizeof(error)) == APR_SUCCESS);
    FUZZ_CHECK(cs_journal_list(dir, count, &again, error, sizeof(error)) == APR_SUCCESS && again == listed);
    rv = cs_journal_adopt(&journal, &options, error, sizeof(error));
    if (rv == APR_SUCCESS) {
        play(journal, listed, !(first & 4));
        cs_journal_close(journal);
        FUZZ_CHECK(cs_journal_adopt(&journal, &options, error, sizeof(error)) == APR_NOTFOUND);
    }
    else {
        FUZZ_CHECK(rv == APR_NOTFOUND || rv == APR_EGENERAL || rv == APR_ENOTIMPL);
        FUZZ_CHECK(listed == 0);
    }
    cs_buf_free(&bytes);
    empty_dir();
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growable run of bytes: appended at the end, consumed at the front. A zeroed struct is an empty buffer. Out of
 * memory ends the process: the simulator is a test tool and has nobody to report to.
 *
 *     up_buf_t b = {0};
 *     up_buf_str(&b, "data: ");
 *     up_buf_json(&b, text, len);
 *     send(fd, b.data + b.off, b.len, 0);
 *     up_buf_free(&b);
 */
#ifndef UPSTREAM_BUF_H
#define UPSTREAM_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct up_buf_t {
    char *data;
    size_t off; /* the content is data[off .. off + len) */
    size_t len;
    size_t cap;
} up_buf_t;

/* Room for `more` bytes behind the content; what is returned is where they go. Follow with up_buf_grew(). */
char *up_buf_room(up_buf_t *b, size_t more);
void up_buf_grew(up_buf_t *b, size_t added);

void up_buf_add(up_buf_t *b, const void *data, size_t len);
void up_buf_str(up_buf_t *b, const char *text);
void up_buf_fill(up_buf_t *b, char c, size_t count);
void up_buf_printf(up_buf_t *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The text as the inside of a JSON string: escaped, without the quotes. Bytes that are not UTF-8 become U+FFFD. */
void up_buf_json(up_buf_t *b, const char *text, size_t len);

void up_buf_consume(up_buf_t *b, size_t count);
void up_buf_clear(up_buf_t *b);
void up_buf_free(up_buf_t *b);

/* Where the content is; never NULL. */
const char *up_buf_data(const up_buf_t *b);

/* The content as a C string; the NUL behind it is not part of the content. */
const char *up_buf_cstr(up_buf_t *b);

/* malloc, strdup and friends that never return NULL. */
void *up_alloc(size_t size);
char *up_strndup(const char *text, size_t len);

#endif

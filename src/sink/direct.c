/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The short way out. Once the headers of a plain HTTP/1.1 response have gone, all that the filters below ours do with an event is
 * to put a chunk's frame around it, copy it aside, and write it. That was a fifth of what an event costs (a bucket for
 * each part, a pool cleared), so here the frame and the event go to the socket in one writev. As soon as anything else is in the
 * chain (TLS, a filter of somebody's), or the client does not take all at once, the ordinary way is used.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <apr_optional.h>
#include <http_core.h>
#include <util_filter.h>

#include "sink.h"

static APR_OPTIONAL_FN_TYPE(ap_logio_add_bytes_out) * count_bytes_out;

void cs_direct_register(void)
{
    count_bytes_out = APR_RETRIEVE_OPTIONAL_FN(ap_logio_add_bytes_out);
}

void cs_direct_look(cs_direct_t *direct, const request_rec *r)
{
    /* Those that do nothing to an event any more, but count it. */
    static const char *const passive[] = {"chatstream", "content_length", "http_outerror",
                                          "chunk",      "reqtimeout",     "core"};
    const ap_filter_t *f;
    int chunked = 0;

    for (f = r->output_filters; f; f = f->next) {
        size_t i = 0;

        while (i < sizeof(passive) / sizeof(passive[0]) && strcasecmp(f->frec->name, passive[i])) {
            i++;
        }
        if (i == sizeof(passive) / sizeof(passive[0])) {
            return;
        }
        chunked |= !strcasecmp(f->frec->name, "chunk");
    }
    direct->chunked = chunked;
    direct->on = chunked == (r->chunked != 0);
}

/* What the client did not take now is the core filter's to send later, in order. */
static apr_status_t set_aside(request_rec *r, apr_bucket_brigade *bb, const struct iovec *vec, int count, size_t sent)
{
    apr_bucket_alloc_t *list = r->connection->bucket_alloc;
    apr_status_t rv;
    int i;

    for (i = 0; i < count; i++) {
        size_t skip = sent < vec[i].iov_len ? sent : vec[i].iov_len;

        sent -= skip;
        if (skip < vec[i].iov_len) {
            APR_BRIGADE_INSERT_TAIL(
                bb, apr_bucket_heap_create((char *)vec[i].iov_base + skip, vec[i].iov_len - skip, NULL, list));
        }
    }
    rv = ap_pass_brigade(r->connection->output_filters, bb);
    apr_brigade_cleanup(bb);
    r->connection->data_in_output_filters = 1; /* below the core filter's threshold it does not say so by itself */
    return rv;
}

/* "1f2\r\n", written from the end of `room` backwards: this runs for every event. */
static struct iovec chunk_head(char room[24], size_t len)
{
    static const char digits[] = "0123456789abcdef";
    char *at = room + 24;

    *--at = '\n';
    *--at = '\r';
    do {
        *--at = digits[len & 15];
        len >>= 4;
    } while (len);
    return (struct iovec){at, (size_t)(room + 24 - at)};
}

cs_direct_e cs_direct_send(cs_direct_t *direct, request_rec *r, apr_bucket_brigade *bb, cs_buf_t *out)
{
    char room[24];
    struct iovec all[3], *vec = all + (direct->chunked ? 0 : 1);
    int count = direct->chunked ? 3 : 1;
    size_t total = out->len;
    ssize_t sent;

    all[1] = (struct iovec){out->data, out->len};
    if (direct->chunked) {
        all[0] = chunk_head(room, out->len);
        all[2] = (struct iovec){(char *)"\r\n", 2};
        total += all[0].iov_len + 2;
    }
    do {
        sent = writev(direct->fd, vec, count);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        out->len = 0;
        r->connection->aborted = 1;
        return CS_DIRECT_GONE;
    }
    direct->body_bytes += (apr_off_t)out->len;
    direct->wire_bytes += sent > 0 ? sent : 0;
    out->len = 0;
    if (sent > 0 && (size_t)sent == total) {
        return CS_DIRECT_ALL;
    }
    cs_direct_settle(direct, r);
    return set_aside(r, bb, vec, count, sent > 0 ? (size_t)sent : 0) ? CS_DIRECT_GONE : CS_DIRECT_PART;
}

void cs_direct_settle(cs_direct_t *direct, request_rec *r)
{
    r->bytes_sent += direct->body_bytes;
    if (direct->wire_bytes && count_bytes_out) {
        count_bytes_out(r->connection, direct->wire_bytes);
    }
    direct->body_bytes = direct->wire_bytes = 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CHATSTREAM output filter. Events come as data buckets, each brigade holding whole events; it sees to it that they leave
 * now, in the way the sink can bear.
 */
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>
#include <util_filter.h>

#include "sink.h"

static ap_filter_rec_t *filter_handle;

/* ---- the mark ---------------------------------------------------------------------------------------------------- */

static apr_status_t mark_read(apr_bucket *bucket, const char **str, apr_size_t *len, apr_read_type_e block)
{
    (void)bucket;
    (void)block;
    *str = NULL;
    *len = 0;
    return APR_SUCCESS;
}

static const apr_bucket_type_t mark_type = {
    "CHATSTREAM",
    5,
    APR_BUCKET_METADATA,
    apr_bucket_destroy_noop,
    mark_read,
    apr_bucket_setaside_noop,
    apr_bucket_split_notimpl,
    apr_bucket_simple_copy,
};

static apr_bucket *mark_create(apr_bucket_alloc_t *list)
{
    apr_bucket *bucket = apr_bucket_alloc(sizeof(*bucket), list);

    APR_BUCKET_INIT(bucket);
    bucket->free = apr_bucket_free;
    bucket->list = list;
    bucket->type = &mark_type;
    bucket->length = 0;
    bucket->start = 0;
    bucket->data = NULL;
    return bucket;
}

/* ---- the filter -------------------------------------------------------------------------------------------------- */

static apr_status_t chatstream_filter(ap_filter_t *f, apr_bucket_brigade *bb)
{
    const cs_push_e push = *(const cs_push_e *)f->ctx;
    apr_bucket *last = APR_BRIGADE_LAST(bb);

    if (!APR_BRIGADE_EMPTY(bb) && !APR_BUCKET_IS_METADATA(last)) {
        apr_bucket_alloc_t *list = f->c->bucket_alloc;

        APR_BRIGADE_INSERT_TAIL(bb, push == CS_PUSH_MARK ? mark_create(list) : apr_bucket_flush_create(list));
    }
    return ap_pass_brigade(f->next, bb);
}

void cs_filter_register(void)
{
    filter_handle = ap_register_output_filter("CHATSTREAM", chatstream_filter, NULL, AP_FTYPE_RESOURCE);
}

void cs_filter_add(request_rec *r, const cs_push_e *push)
{
    ap_add_output_filter_handle(filter_handle, (void *)push, r, r->connection);
}

int cs_filter_chain_is_plain(const request_rec *r)
{
    /* Compressors are here because they step aside for no-gzip and no-brotli. */
    static const char *const plain[] = {
        "chatstream",  "content_length",  "http_header",       "http_outerror",
        "chunk",       "byterange",       "old_write",         "core",
        "deflate",     "brotli_compress", "fixup_headers_out", "fixup_headers_err",
        "mod_expires", "reqtimeout",      "ssl/tls filter",    "ssl/tls coalescing filter"};
    const ap_filter_t *f;

    for (f = r->output_filters; f; f = f->next) {
        size_t i = 0;

        while (i < sizeof(plain) / sizeof(plain[0]) && strcasecmp(f->frec->name, plain[i])) {
            i++;
        }
        if (i == sizeof(plain) / sizeof(plain[0])) {
            return 0;
        }
    }
    return 1;
}

apr_status_t cs_filter_send(request_rec *r, apr_bucket_brigade *bb, cs_buf_t *out)
{
    size_t len;
    char *bytes = cs_buf_detach(out, &len);
    apr_status_t rv;

    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_heap_create(bytes, len, free, r->connection->bucket_alloc));
    rv = ap_pass_brigade(r->output_filters, bb);
    apr_brigade_cleanup(bb);
    return rv;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include <curl/curl.h>

#include "chatstream/upstream.h"

static size_t take(char *bytes, size_t size, size_t count, void *baton)
{
    return cs_buf_append(baton, bytes, size * count) == APR_SUCCESS ? size * count : 0;
}

apr_status_t cs_fetch(const char *url, const char *ca_file, apr_time_t timeout, cs_buf_t *out, char *error, size_t size)
{
    char reason[CURL_ERROR_SIZE] = "";
    CURL *easy = curl_easy_init();
    CURLcode code;

    if (!easy) {
        snprintf(error, size, "out of memory");
        return APR_ENOMEM;
    }
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L); /* whoever answers elsewhere was not configured */
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)apr_time_as_msec(timeout));
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, reason);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, out);
    if (ca_file) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
    }
    code = curl_easy_perform(easy);
    curl_easy_cleanup(easy);
    if (code == CURLE_WRITE_ERROR) {
        snprintf(error, size, "the answer is larger than allowed");
    }
    else if (code) {
        snprintf(error, size, "%s", reason[0] ? reason : curl_easy_strerror(code));
    }
    return code ? APR_EGENERAL : APR_SUCCESS;
}

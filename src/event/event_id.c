/* SPDX-License-Identifier: Apache-2.0 */
/* event_id: what a client sends back as Last-Event-ID. */
#include "chatstream/event.h"

apr_status_t cs_event_id_parse(const char *text, size_t len, cs_uuid_t *stream_id, uint64_t *seq)
{
    if (len < CS_UUID_LEN + 2 || text[CS_UUID_LEN] != ':') {
        return APR_EINVAL;
    }
    /* One spelling per event: no leading zeros. 0 is before the first event, for a client that has seen none. */
    const char *digit = text + CS_UUID_LEN + 1;
    const char *end = text + len;
    if (*digit == '0' && digit + 1 < end) {
        return APR_EINVAL;
    }
    uint64_t value = 0;
    for (; digit < end; digit++) {
        if (*digit < '0' || *digit > '9') {
            return APR_EINVAL;
        }
        uint64_t add = (uint64_t)(*digit - '0');
        if (value > (UINT64_MAX - add) / 10) {
            return APR_EINVAL;
        }
        value = value * 10 + add;
    }
    cs_uuid_t uuid;
    if (cs_uuid_parse(&uuid, text, CS_UUID_LEN) != APR_SUCCESS) {
        return APR_EINVAL;
    }
    *stream_id = uuid;
    *seq = value;
    return APR_SUCCESS;
}

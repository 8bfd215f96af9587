/* SPDX-License-Identifier: Apache-2.0 */
/* STATE_DIR/<chain>.refused: facts that the database will never take, encoded, each behind its length. For a person to look at. */
#include "refused.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

apr_status_t cs_refused_append(const char *dir, const char *chain, const cs_fact_t *fact)
{
    char path[4096];
    uint32_t len = 0;
    cs_buf_t entry;
    apr_status_t rv;
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s.refused", dir, chain) >= (int)sizeof(path)) {
        return APR_ENAMETOOLONG;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) {
        return errno;
    }
    cs_buf_init(&entry, CS_FACT_MAX + sizeof(len));
    rv = cs_buf_append(&entry, &len, sizeof(len));
    if (!rv && !(rv = cs_fact_encode(fact, &entry))) {
        len = (uint32_t)(entry.len - sizeof(len));
        *(uint32_t *)(void *)entry.data = len;
        rv = write(fd, entry.data, entry.len) == (ssize_t)entry.len ? APR_SUCCESS : APR_EGENERAL;
    }
    cs_buf_free(&entry);
    close(fd);
    return rv;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "layout.h"

apr_status_t cs_log_mutex_init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);

    if (rc) {
        return rc;
    }
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    rc = pthread_mutex_init(mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    return rc;
}

void cs_log_lock(cs_log_t *log)
{
    /* A child was killed while it held the lock: what it was linking is rebuilt from the slots' own words. */
    if (pthread_mutex_lock(&log->head->lock) == EOWNERDEAD) {
        pthread_mutex_consistent(&log->head->lock);
        cs_log_slots_rebuild(log);
    }
}

void cs_log_unlock(cs_log_t *log)
{
    pthread_mutex_unlock(&log->head->lock);
}

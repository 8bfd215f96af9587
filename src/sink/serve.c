/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>

#include "sink.h"

static struct {
    cs_log_t *log;
    cs_log_hub_t *hub;
    cs_loop_t *loop;
    _Atomic unsigned readers;
} self;

cs_log_t *cs_sink_log(void)
{
    return self.log;
}

cs_log_hub_t *cs_sink_hub(void)
{
    return self.hub;
}

cs_loop_t *cs_sink_loop(void)
{
    return self.loop;
}

void cs_sink_counted(int by)
{
    atomic_fetch_add(&self.readers, (unsigned)by);
}

unsigned cs_sink_count(void)
{
    return atomic_load(&self.readers);
}

void cs_sink_close_all(void)
{
    cs_suspended_close_all();
}

void cs_sink_register_hooks(void)
{
    cs_filter_register();
    cs_suspended_register();
}

void cs_sink_child_init(cs_log_t *log, cs_log_hub_t *hub, cs_loop_t *loop)
{
    cs_direct_register();
    self.log = log;
    self.hub = hub;
    self.loop = loop;
}

int cs_sink_serve(request_rec *r, const cs_sink_spec_t *spec)
{
    return cs_suspended_possible(r) ? cs_suspended_serve(r, spec) : cs_blocking_serve(r, spec);
}

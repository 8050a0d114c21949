/* daemon/worker_role.c - see the header. */
#include "daemon/worker_role.h"

#include "base/clock.h"
#include "base/mem.h"
#include "decode/decode.h"
#include "prefill/prefill.h"

/* How long the blocks of a computed prompt wait for a decode worker with room: as long as that one keeps it waiting
 * and the scheduler, who knows when it is hopeless, lets both.  This ends what all have forgotten. */
static const uint64_t grant_most_ns = 600 * CLOCK_NS_PER_S;

/* Exactly one of the two is there. */
struct daemon_role {
    struct prefill *prefill;
    struct decode *decode;
};

static enum err create_prefill(const struct daemon_role_config *c, struct prefill **out)
{
    struct prefill_config p = {.loop = c->loop,
                               .engine = c->engine,
                               .kvt = c->kvt,
                               .n_blocks = c->n_blocks,
                               .grant_timeout_ns = grant_most_ns,
                               .arg = c->arg,
                               .to_scheduler = c->to_scheduler,
                               .to_frontend = c->to_frontend,
                               .on_broken = c->on_broken};

    return prefill_create(&p, out);
}

static enum err create_decode(const struct daemon_role_config *c, struct decode **out)
{
    struct decode_config d = {.loop = c->loop,
                              .engine = c->engine,
                              .kvt = c->kvt,
                              .n_blocks = c->n_blocks,
                              .park_bytes = c->park_bytes,
                              .arg = c->arg,
                              .to_scheduler = c->to_scheduler,
                              .to_frontend = c->to_frontend,
                              .on_broken = c->on_broken};

    return decode_create(&d, out);
}

enum err daemon_role_create(const struct daemon_role_config *c, struct daemon_role **out)
{
    struct daemon_role *r = mem_try_calloc(1, sizeof(*r));
    enum err err;

    if (r == NULL)
        return ERR_NOMEM;
    err = c->role == DAEMON_WORKER_PREFILL ? create_prefill(c, &r->prefill)
                                           : create_decode(c, &r->decode);
    if (err != ERR_OK) {
        mem_free(r);
        return err;
    }
    *out = r;
    return ERR_OK;
}

static bool prefill_frame(struct prefill *p, enum wire_type t, const ProtobufCMessage *m,
                          uint32_t *frontend)
{
    if (t == WIRE_PREFILL) {
        *frontend = ((const Baton__Prefill *)m)->frontend;
        prefill_on_prefill(p, (const Baton__Prefill *)m);
    } else if (t == WIRE_GRANT) {
        prefill_on_grant(p, (const Baton__Grant *)m);
    } else if (t == WIRE_CANCEL) {
        prefill_on_cancel(p, (const Baton__Cancel *)m);
    } else {
        return false;
    }
    return true;
}

static bool decode_frame(struct decode *d, uint32_t self, enum wire_type t,
                         const ProtobufCMessage *m, uint32_t *frontend)
{
    if (t == WIRE_RESERVE) {
        *frontend = ((const Baton__Reserve *)m)->frontend;
        decode_on_reserve(d, (const Baton__Reserve *)m);
    } else if (t == WIRE_PREFILL) {
        *frontend = ((const Baton__Prefill *)m)->frontend;
        decode_on_prefill(d, self, (const Baton__Prefill *)m);
    } else if (t == WIRE_CANCEL) {
        decode_on_cancel(d, (const Baton__Cancel *)m);
    } else {
        return false;
    }
    return true;
}

bool daemon_role_on_frame(struct daemon_role *r, uint32_t self, enum wire_type t,
                          const ProtobufCMessage *m, uint32_t *frontend)
{
    *frontend = 0;
    return r->prefill != NULL ? prefill_frame(r->prefill, t, m, frontend)
                              : decode_frame(r->decode, self, t, m, frontend);
}

void daemon_role_cancel_all(struct daemon_role *r)
{
    if (r->prefill != NULL)
        prefill_cancel_all(r->prefill);
    else
        decode_cancel_all(r->decode);
}

void daemon_role_cancel_frontend(struct daemon_role *r, uint32_t frontend)
{
    if (r->prefill != NULL)
        prefill_cancel_frontend(r->prefill, frontend);
    else
        decode_cancel_frontend(r->decode, frontend);
}

void daemon_role_report(struct daemon_role *r, Baton__Report *m)
{
    if (r->prefill != NULL)
        prefill_report(r->prefill, m);
    else
        decode_report(r->decode, m);
}

bool daemon_role_progress(struct daemon_role *r, Baton__DecodeProgress *m)
{
    if (r->decode == NULL)
        return false;
    decode_progress(r->decode, m);
    return m->n_request > 0;
}

uint32_t daemon_role_park_blocks(const struct daemon_role *r)
{
    return r->decode != NULL ? decode_park_blocks(r->decode) : 0;
}

uint32_t daemon_role_live(const struct daemon_role *r)
{
    return r->prefill != NULL ? prefill_live(r->prefill) : decode_live(r->decode);
}

void daemon_role_destroy(struct daemon_role *r)
{
    if (r == NULL)
        return;
    prefill_destroy(r->prefill);
    decode_destroy(r->decode);
    mem_free(r);
}

/* tests/unit/roles_fake.h - what the tests of the two worker roles stand on: an engine and a KV node that the
 * test drives by hand (they replace the real ones at link time), and a recorder for messages out.
 *
 * Every message a role sends is packed and unpacked again, so a role that sends one that breaks the rules of
 * proto/wire_check.c fails its test. */
#ifndef TESTS_UNIT_ROLES_FAKE_H
#define TESTS_UNIT_ROLES_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "engine/engine.h"
#include "kvtransfer/kvt.h"
#include "proto/wire_frame.h"

enum { FAKE_BLOCKS = 32, FAKE_BLOCK_TOKENS = 4, FAKE_LAYERS = 4, FAKE_VOCAB = 1000 };

/* ---- engine: token = 100 + sample_index, unless fake_engine_set_token says otherwise; with a penalty
 * the real sampler over flat logits: the lowest id that is not penalised ---- */
struct fake_step_slot {
    uint32_t position, n_tokens, sample_index;
    int32_t first_token;
    bool sample, has_history;
};
struct fake_step {
    uint32_t n;
    struct fake_step_slot slots[64];
};
void fake_engine_reset(uint32_t max_batch, uint32_t max_step_tokens);
struct engine *fake_engine(void);
void fake_engine_quick(void);                  /* layers take no time */
void fake_engine_device(void);                 /* layers are reported at once, with tickets */
void fake_engine_hold(bool hold);              /* steps wait before their first layer */
void fake_engine_hold_layers(uint32_t layers); /* steps wait after so many layers; 0: they do not */
void fake_engine_hold_step(
    uint32_t step);             /* this one waits before its first layer; UINT32_MAX: none */
bool fake_engine_in_step(void); /* one waits */
void fake_engine_set_token(int32_t token);            /* < 0: by index */
void fake_engine_fail(enum err whole, enum err slot); /* from the next step on */
void fake_engine_fail_copy(enum err err);             /* of blocks to and from the host */
uint32_t fake_engine_steps(void);
struct fake_step fake_engine_step_at(uint32_t i);

/* ---- KV node ---- */
struct fake_piece {
    uint32_t first, n, first_layer, n_layers;
    uint64_t ready;
};
struct fake_send {
    struct kvt_send_config c;
    uint32_t local[64], remote[64];
    struct fake_piece pieces[256];
    uint32_t n_pieces;
    bool finished, canceled, done;
    uint8_t meta[KVT_META_MAX];
    size_t meta_len;
};
struct fake_grant {
    struct kvt_grant_config c;
    uint32_t slots[64];
    bool canceled, arrived, safe;
};
void fake_kvt_reset(void);
struct kvt_node *fake_kvt(void);
void fake_kvt_refuse(enum err err); /* next opens fail; ERR_OK: they do not */
uint32_t fake_sends(void);
struct fake_send *fake_send_at(uint32_t i);
/* Each (layer, block) was passed exactly once, and all of them. */
bool fake_send_complete(const struct fake_send *s);
void fake_send_done(struct fake_send *s, enum err err);
uint32_t fake_grants(void);
struct fake_grant *fake_grant_at(uint32_t i);
void fake_grant_arrive(struct fake_grant *g, enum err err, const void *meta, size_t meta_len);
void fake_grant_safe(struct fake_grant *g);

/* ---- messages out ---- */
struct fake_msg {
    enum wire_type type; /* WIRE_TOKENS for frames to a front end */
    uint32_t frontend;
    ProtobufCMessage *m;
};
void fake_to_scheduler(void *arg, enum wire_type t, const ProtobufCMessage *m);
void fake_to_frontend(void *arg, uint32_t frontend, const Baton__Tokens *m);
void fake_on_broken(void *arg, const char *why);
uint32_t fake_broken(void);
void fake_short_of_memory(
    void); /* a message that cannot be recorded is no failure, until the next reset */
uint32_t fake_released(
    void); /* RELEASED messages, also those that could not be recorded for want of memory */
void fake_msgs_reset(void);
uint32_t fake_msgs(void);
const struct fake_msg *fake_msg_at(uint32_t i);
uint32_t fake_count(enum wire_type t);
/* The i-th message of that type; NULL: there is none. */
const void *fake_nth(enum wire_type t, uint32_t i);
/* Position of the i-th message of that type among all; UINT32_MAX: there is none. */
uint32_t fake_where(enum wire_type t, uint32_t i);

/* ---- loop ---- */
/* A loop with a timer in it that keeps it alive; closing runs it to its end.  False: something stayed open. */
void fake_loop_open(uv_loop_t *loop);
bool fake_loop_close(uv_loop_t *loop);
/* Run the loop until done() or for five seconds; returns done(). */
bool fake_run_until(uv_loop_t *loop, bool (*done)(void));
void fake_run_some(uv_loop_t *loop); /* long enough for anything that is on its way */

/* A greedy request's sampling. */
void fake_sampling(Baton__Sampling *s);

#endif

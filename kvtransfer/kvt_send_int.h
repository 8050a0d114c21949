/* kvtransfer/kvt_send_int.h - a transfer at its sender, as the files of the sender see it.
 *
 *   kvt_send.c          its states; pieces in host memory: puts, and messages
 *   kvt_send_staged.c   pieces in device memory: copied out to a pinned buffer, then a message
 *
 * Thread: the loop's. */
#ifndef KVTRANSFER_KVT_SEND_INT_H
#define KVTRANSFER_KVT_SEND_INT_H

#include "kvtransfer/kvt_int.h"

enum send_state {
    SEND_WAITING = 0, /* for the connection */
    SEND_CLAIMING,    /* for ACCEPT */
    SEND_STREAMING,   /* for pieces from the caller, and operations */
    SEND_FINISHED,    /* DONE is out; for ACK */
    SEND_STOPPING,    /* failed; for operations to end */
    SEND_ENDED        /* for its callback */
};

/* Of every part of our blocks. */
struct piece {
    uint32_t first, n;
    uint32_t grain, n_grains;
    uint64_t ready; /* the engine's ticket */
};

struct batch;

struct kvt_send {
    struct kvt_item item; /* node->active_sends or node->ended_sends */
    struct kvt_node *node;
    struct kvt_conn *conn; /* once claimed, until the connection fails */
    struct kvt_send_config config;
    uint32_t *remote, *local; /* copies of the slot lists, one allocation */
    enum send_state state;
    enum err err;
    struct piece *pieces; /* queue */
    uint32_t n_pieces, cap_pieces, head;
    uint32_t part_at, block_at, grain_at; /* progress inside pieces[head] */
    struct batch *batch;                  /* being filled */
    uint32_t open_batches;
    uint32_t ops;           /* in UCX */
    struct kvt_item staged; /* copies out of the device that have not ended, copying of them */
    uint32_t copying;
    uint32_t n_records;
    bool finish, acked;
    uint8_t meta[KVT_META_MAX];
    size_t meta_len;
    uint64_t bytes, wire_ns, op_since_ns;
    uint64_t progress_ns, finish_ns, ack_ns, stop_by_ns;
    enum kvt_path path;
    struct kvt_conn *op_conn; /* whose window the operations count in */
};

/* The record's share of its block i: our part of that block, and the bytes [begin, end) of it. */
struct share {
    const uint8_t *block;
    size_t begin, end;
};

/* kvt_send.c */
void kvt_send_fail(struct kvt_send *s, enum err err);
/* An operation or a copy has ended, or the state has changed. */
void kvt_send_try_end(struct kvt_send *s);
void kvt_send_maybe_done(struct kvt_send *s);
void kvt_send_work_changed(struct kvt_send *s);
void kvt_send_op_begin(struct kvt_send *s, size_t bytes);
void kvt_send_op_end(struct kvt_send *s, size_t bytes);
/* Takes up to max bytes of the first piece, all of one part. */
struct kvt_wire_record kvt_send_next_record(struct kvt_send *s, size_t max);
struct share kvt_send_share(const struct kvt_send *s, const struct kvt_wire_record *r, uint32_t i);

/* Put a record whose digest is known; last: no other follows soon. */
void kvt_send_put(struct kvt_send *s, const struct kvt_wire_record *r, bool last);

/* kvt_send_staged.c */
bool kvt_send_may_stage(const struct kvt_send *s);
void kvt_send_issue_staged(struct kvt_send *s);
/* The send has failed: its copies end as soon as they can. */
void kvt_send_stop_copies(struct kvt_send *s);
/* They do not end in time: the send does not wait for them. */
void kvt_send_leave_copies(struct kvt_send *s);

#endif

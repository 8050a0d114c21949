/* tests/kvt/kvt_pair.h - two kvt nodes in one process and on one loop, for tests: node 0 sends, node 1
 * receives, and everything that their callbacks said is written down. */
#ifndef TESTS_KVT_PAIR_H
#define TESTS_KVT_PAIR_H

#include <uv.h>

#include "kvtransfer/kvt.h"
#include "tests/kvt/kvt_device.h"

/* PAIR_PATIENCE: how much longer than the usual limit a loaded machine may take to raise a flag. */
enum { PAIR_BLOCKS = 64, PAIR_SENDER = 10, PAIR_RECEIVER = 20, PAIR_PATIENCE = 5 };

struct pair_grant {
    struct kvt_grant *grant;
    int arrivals, safes;
    struct kvt_arrival arrival;
    bool safe_before_arrival;
};

struct pair_send {
    struct kvt_send *send;
    int dones;
    struct kvt_send_result result;
};

struct pair {
    uv_loop_t loop;
    struct kvt_node *node[2];
    struct kvt_node_config config[2];
    uint8_t token[KVT_TOKEN_BYTES];
    int links[2], losts[2], closed;
    struct kvt_link link[2];
    enum err lost_err[2];
    uint32_t transfer_class;  /* of the next pair_send */
    struct device *device[2]; /* NULL: host memory */
};

/* A model of 4 layers whose blocks have 4 * 2 * heads * 16 * 32 * 2 bytes: 8 KiB per head. */
struct wire_kv_layout pair_layout(uint32_t heads);
/* transports: NULL or "tcp".  Nodes are created, and introduced to each other. */
void pair_open(struct pair *p, const char *transports, const struct wire_kv_layout *layout);
/* The same with pools of so many parts. */
void pair_open_parts(struct pair *p, const char *transports, const struct wire_kv_layout *layout,
                     uint32_t sender_parts, uint32_t receiver_parts);
/* How one side holds its pool. */
struct pair_side {
    uint32_t parts;
    bool device;       /* in the memory of a device that is not there: pair->device */
    size_t staging;    /* bytes, 0: the default */
    unsigned delay_us; /* of the device */
    bool coherent;     /* UCX can reach the device */
};
void pair_open_sides(struct pair *p, const char *transports, const struct wire_kv_layout *layout,
                     const struct pair_side sides[2]);
void pair_introduce(struct pair *p);
/* Close both nodes; asserts that nothing is left of any transfer, soon. */
void pair_close(struct pair *p);
/* Run the loop until *flag reaches `value`, at most PAIR_PATIENCE times ms; returns whether it did. */
bool pair_run(struct pair *p, const int *flag, int value, unsigned ms);
void pair_run_for(struct pair *p, unsigned ms);
/* Run the loop until something is so that no flag tells; asserts that it comes within 20 s. */
#define PAIR_UNTIL(p, condition)                          \
    do {                                                  \
        for (int k_ = 0; !(condition) && k_ < 4000; k_++) \
            pair_run_for(p, 5);                           \
        assert_true(condition);                           \
    } while (0)
/* The nodes are connected, and every claim made until now has been answered.  Uses the last block. */
void pair_settle(struct pair *p);
size_t pair_block_bytes(const struct pair *p);
/* Of a pool of one part. */
uint8_t *pair_block(const struct pair *p, int node, uint32_t slot);
/* Copy a whole block, as one part would hold it, into the parts of a pool or out of them. */
void pair_store(const struct pair *p, int node, uint32_t slot, const uint8_t *block);
void pair_load(const struct pair *p, int node, uint32_t slot, uint8_t *block);
/* Fill a block with bytes that depend on seed. */
void pair_fill(const struct pair *p, int node, uint32_t slot, uint64_t seed);
bool pair_same(const struct pair *p, uint32_t sender_slot, uint32_t receiver_slot);
enum err pair_grant(struct pair *p, struct pair_grant *g, uint64_t transfer, uint32_t epoch,
                    const uint32_t *slots, uint32_t n, unsigned deadline_ms);
enum err pair_send(struct pair *p, struct pair_send *s, uint64_t transfer, uint32_t epoch,
                   const uint32_t *remote, const uint32_t *local, uint32_t n, unsigned deadline_ms);
/* All pieces of n blocks, layer by layer. */
void pair_pieces(struct pair_send *s, uint32_t n, uint32_t n_layers);

#endif

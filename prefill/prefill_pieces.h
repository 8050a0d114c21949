/* prefill/prefill_pieces.h - private: which (layer, block) of one request is final, and which of these
 * the hand-over has been given.  Thread: loop.
 *
 * A block becomes final, layer by layer, in the step that computes its last token; so at any time all
 * layers of the first `full` blocks are final, and the first `part_layers` layers of the `part` blocks
 * after them:
 *
 *            block 0 ...      full ...        full + part
 *   layer 0    #########|########|
 *      ...     #########|########|   <- part_layers
 *      L-1     #########|        |
 */
#ifndef PREFILL_PREFILL_PIECES_H
#define PREFILL_PREFILL_PIECES_H

#include <stdint.h>

struct kvt_send;

struct prefill_pieces {
    uint32_t full;
    uint32_t part, part_layers;
    uint32_t sent_layers; /* of the part */
    uint64_t ready;       /* the engine's ticket for part_layers */
};

/* The running step completes blocks [full, end); their first `layers` layers are final once `ready`
 * is (engine_layers_fn).  send may be NULL: the grant is not known yet. */
void prefill_pieces_part(struct prefill_pieces *p, uint32_t end, uint32_t layers, uint64_t ready,
                         struct kvt_send *send);
/* The step is done: all n_layers of blocks up to end are final. */
void prefill_pieces_full(struct prefill_pieces *p, uint32_t end, uint32_t n_layers,
                         struct kvt_send *send);
/* The hand-over was opened, once: give it what is final by now. */
void prefill_pieces_open(struct prefill_pieces *p, uint32_t n_layers, struct kvt_send *send);

#endif

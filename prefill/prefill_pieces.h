/* prefill/prefill_pieces.h - private: which (layer, block) of one request is final, and which of these
 * the hand-over has been given.  Thread: loop.
 *
 * A block becomes final, layer by layer, in the step that computes its last token; so at any time all
 * layers of the first `full` blocks are final, and the first layers of the `part` blocks after them:
 *
 *            block 0 ...      full ...        full + part
 *   layer 0    #########|########|   <- sent_layers
 *      ...     #########|########|   <- the layers of the last mark
 *      L-1     #########|        |
 *
 * On a device each mark has a ticket of its own, and its layers leave as a piece of their own: a hand-over that is
 * opened in the middle of the step has missed none. */
#ifndef PREFILL_PREFILL_PIECES_H
#define PREFILL_PREFILL_PIECES_H

#include <stdint.h>

#include "prefill/prefill_step.h"

struct kvt_send;

struct prefill_pieces {
    uint32_t full;
    uint32_t part, sent_layers; /* of the part */
    uint32_t n_marks;           /* that are not sent; rising */
    struct {
        uint32_t layers; /* [0, layers) are final */
        uint64_t ready;  /* once this is (engine_layers_fn) */
    } mark[PREFILL_MARKS];
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

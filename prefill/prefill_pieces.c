/* prefill/prefill_pieces.c - see the header. */
#include "prefill/prefill_pieces.h"

#include "kvtransfer/kvt.h"

static void send_part(struct prefill_pieces *p, struct kvt_send *send)
{
    if (send == NULL)
        return;
    for (uint32_t i = 0; i < p->n_marks; i++) {
        kvt_send_piece(send, p->full, p->part, p->sent_layers, p->mark[i].layers - p->sent_layers,
                       p->mark[i].ready);
        p->sent_layers = p->mark[i].layers;
    }
    p->n_marks = 0;
}

void prefill_pieces_part(struct prefill_pieces *p, uint32_t end, uint32_t layers, uint64_t ready,
                         struct kvt_send *send)
{
    uint32_t known = p->n_marks > 0 ? p->mark[p->n_marks - 1].layers : p->sent_layers;

    p->part = end > p->full ? end - p->full : 0;
    if (p->part == 0 || layers <= known)
        return;
    if (ready == 0) /* now: then so are all before */
        p->n_marks = 0;
    if (p->n_marks == PREFILL_MARKS)
        p->n_marks--;
    p->mark[p->n_marks].layers = layers;
    p->mark[p->n_marks++].ready = ready;
    send_part(p, send);
}

void prefill_pieces_full(struct prefill_pieces *p, uint32_t end, uint32_t n_layers,
                         struct kvt_send *send)
{
    p->n_marks = 0; /* their tickets have passed */
    prefill_pieces_part(p, end, n_layers, 0, send);
    p->full += p->part;
    p->part = 0;
    p->n_marks = 0;
    p->sent_layers = 0;
}

void prefill_pieces_open(struct prefill_pieces *p, uint32_t n_layers, struct kvt_send *send)
{
    if (p->full > 0)
        kvt_send_piece(send, 0, p->full, 0, n_layers, 0);
    send_part(p, send);
}

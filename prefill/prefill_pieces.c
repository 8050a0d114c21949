/* prefill/prefill_pieces.c - see the header. */
#include "prefill/prefill_pieces.h"

#include "kvtransfer/kvt.h"

static void send_part(struct prefill_pieces *p, struct kvt_send *send)
{
    if (send == NULL || p->part == 0 || p->part_layers <= p->sent_layers)
        return;
    kvt_send_piece(send, p->full, p->part, p->sent_layers, p->part_layers - p->sent_layers,
                   p->ready);
    p->sent_layers = p->part_layers;
}

void prefill_pieces_part(struct prefill_pieces *p, uint32_t end, uint32_t layers, uint64_t ready,
                         struct kvt_send *send)
{
    p->part = end > p->full ? end - p->full : 0;
    if (layers > p->part_layers)
        p->part_layers = layers;
    p->ready = ready;
    send_part(p, send);
}

void prefill_pieces_full(struct prefill_pieces *p, uint32_t end, uint32_t n_layers,
                         struct kvt_send *send)
{
    prefill_pieces_part(p, end, n_layers, 0, send);
    p->full += p->part;
    p->part = 0;
    p->part_layers = 0;
    p->sent_layers = 0;
}

void prefill_pieces_open(struct prefill_pieces *p, uint32_t n_layers, struct kvt_send *send)
{
    if (p->full > 0)
        kvt_send_piece(send, 0, p->full, 0, n_layers, 0);
    send_part(p, send);
}

/* engine/cuda/cuda_arena.c - see the header. */
#include "engine/cuda/cuda_arena.h"

#include <inttypes.h>

#include "base/log.h"

enum { REGION_ALIGN = 256 };

static const double MIB = 1 << 20;
/* The rest of what is free is for the runtime, which loads code when it is first called. */
static const double FREE_SHARE = 0.97;

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN;
}

static uint64_t fixed_bytes(const struct cuda_arena_need *need)
{
    uint64_t sum = 0;

    for (int i = 0; i < CUDA_KV; i++)
        sum += aligned(need->bytes[i]);
    return sum;
}

static enum err too_small(const struct cuda_arena_need *need, uint64_t have, uint64_t room,
                          uint32_t blocks, struct err_msg *msg)
{
    uint64_t kv = blocks * need->kv_block_bytes, fixed = fixed_bytes(need);

    return err_set(
        msg, ERR_NOMEM,
        "engine: device %u: %.0f MiB needed (weights %.0f, work space %.0f, a KV pool of %u blocks "
        "%.0f), but of its %.0f MiB free %.0f may be taken (--gpu-memory %g); lower "
        "--max-context, --kv-blocks, --max-step-tokens or --max-batch, use --weights fp8, or end "
        "what else uses the device",
        need->device, (double)(fixed + kv) / MIB, (double)need->bytes[CUDA_WEIGHTS] / MIB,
        (double)(fixed - aligned(need->bytes[CUDA_WEIGHTS])) / MIB, blocks, (double)kv / MIB,
        (double)have / MIB, (double)room / MIB, need->share);
}

static void log_table(const struct cuda_arena *a, uint32_t device)
{
    LOG_INFO("engine", "device arena",
             "device=%u total=%.1f weights=%.1f rope=%.1f work=%.1f scratch=%.1f metadata=%.1f "
             "logits=%.1f kv=%.1f MiB kv_blocks=%u",
             device, (double)a->total / MIB, (double)a->bytes[CUDA_WEIGHTS] / MIB,
             (double)a->bytes[CUDA_ROPE] / MIB, (double)a->bytes[CUDA_WORK] / MIB,
             (double)a->bytes[CUDA_SCRATCH] / MIB, (double)a->bytes[CUDA_METADATA] / MIB,
             (double)a->bytes[CUDA_LOGITS] / MIB, (double)a->bytes[CUDA_KV] / MIB, a->kv_blocks);
}

/* Blocks of the pool, or 0 if it does not fit. */
static uint32_t pool_blocks(const struct cuda_arena_need *need, uint64_t left)
{
    uint64_t blocks = left / need->kv_block_bytes;

    if (need->kv_blocks != 0)
        return need->kv_blocks <= blocks ? need->kv_blocks : 0;
    if (blocks < need->kv_blocks_min)
        return 0;
    return blocks < need->kv_blocks_max ? (uint32_t)blocks : need->kv_blocks_max;
}

enum err cuda_arena_fit(struct cuda_arena_need *need, struct gpu *g, struct err_msg *msg)
{
    uint64_t have, all, room, fixed = fixed_bytes(need);
    uint32_t least = need->kv_blocks != 0 ? need->kv_blocks : need->kv_blocks_min;
    enum err err = gpu_memory(g, &have, &all);

    if (err != ERR_OK)
        return err_set(msg, err, "engine: device %u: %s", need->device, gpu_trouble());
    /* Of all its memory: workers that share a device get equal parts in whatever order they start. */
    room = (uint64_t)((double)all * need->share);
    if (room > (uint64_t)((double)have * FREE_SHARE))
        room = (uint64_t)((double)have * FREE_SHARE);
    need->kv_blocks = room < fixed ? 0 : pool_blocks(need, room - fixed);
    return need->kv_blocks != 0 ? ERR_OK : too_small(need, have, room, least, msg);
}

enum err cuda_arena_take(struct cuda_arena *a, struct gpu *g, const struct cuda_arena_need *need,
                         struct err_msg *msg)
{
    uint64_t at = 0;
    enum err err;

    a->kv_blocks = need->kv_blocks;
    for (int i = 0; i < CUDA_REGIONS; i++) {
        a->offset[i] = at;
        a->bytes[i] = i == CUDA_KV ? a->kv_blocks * need->kv_block_bytes : need->bytes[i];
        at += aligned(a->bytes[i]);
    }
    a->total = at;
    err = gpu_alloc(g, a->total, (void **)&a->base);
    if (err != ERR_OK) {
        a->base = NULL;
        return err_set(msg, err, "engine: device %u does not give %.0f MiB in one piece%s%s",
                       need->device, (double)a->total / MIB, err == ERR_DEVICE ? ": " : "",
                       err == ERR_DEVICE ? gpu_trouble() : "; lower --gpu-memory");
    }
    log_table(a, need->device);
    return ERR_OK;
}

void *cuda_arena_at(const struct cuda_arena *a, enum cuda_region region, uint64_t offset)
{
    return a->base + a->offset[region] + offset;
}

void cuda_arena_free(struct cuda_arena *a, struct gpu *g)
{
    if (a->base != NULL)
        gpu_free(g, a->base);
    a->base = NULL;
}

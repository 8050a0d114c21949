/* tests/gpu/emu/emu_comm.cc - engine/cuda/gpu_comm.h between emulated devices, over engine/tp/tp_comm.h.
 *
 * A collective is a piece of work that waits in its device's thread for those of the other ranks, for ever unless the
 * group ends: as a kernel of NCCL does. */
#include "engine/cuda/gpu_comm.h"
#include "engine/kernels/gpu_kernel.cuh"
#include "tests/gpu/emu/emu.hh"

#include <string.h>

#include <atomic>
#include <memory>
#include <vector>

extern "C" {
#include "base/clock.h"
#include "engine/tp/tp_comm.h"
}

namespace
{

enum { LOOK_NS = 5000000, FOR_EVER_MS = 3600000 };

/* Shared with the work that is enqueued, which may outlast the group. */
struct shared {
    uint32_t n_ranks;
    std::atomic<bool> ended{false};
    tp_comm *hosts = nullptr, *devices = nullptr; /* of the ranks' threads, of their devices' */
    std::vector<std::vector<float>> rows; /* of each rank: others may read them until the end */

    ~shared()
    {
        tp_comm_destroy(hosts);
        tp_comm_destroy(devices);
    }
    void end()
    {
        ended = true;
        tp_comm_abort(hosts);
        tp_comm_abort(devices);
    }
};

template <class T> void sum(shared &s, uint32_t rank, T *data, size_t n)
{
    std::vector<float> &mine = s.rows[rank];

    mine.resize(n);
    for (size_t i = 0; i < n; i++)
        mine[i] = to_float(data[i]);
    if (tp_all_reduce(s.devices, rank, mine.data(), n) != ERR_OK)
        return s.end();
    for (size_t i = 0; i < n; i++)
        data[i] = from_float<T>(mine[i]);
}

void gather(shared &s, uint32_t rank, void *out, const void *in, size_t bytes)
{
    std::vector<float> &mine = s.rows[rank], all(bytes / 4 * s.n_ranks);

    mine.resize(bytes / 4);
    memcpy(mine.data(), in, bytes);
    if (tp_all_gather(s.devices, rank, {mine.data(), mine.size()}, 0, 1, all.data()) != ERR_OK)
        return s.end();
    memcpy(out, all.data(), all.size() * 4);
}

} // namespace

struct gpu_comm_group {
    std::shared_ptr<shared> s;
};

struct gpu_comm {
    std::shared_ptr<shared> s;
    uint32_t rank;
};

enum err gpu_comm_group_create(uint32_t n_ranks, uint32_t deadline_ms, struct err_msg *msg,
                               struct gpu_comm_group **out)
{
    if (n_ranks == 0 || n_ranks > GPU_COMM_MAX || deadline_ms == 0)
        return err_set(msg, ERR_INVALID, "collectives: %u ranks (1 to %d), deadline %u ms", n_ranks,
                       GPU_COMM_MAX, deadline_ms);
    auto s = std::make_shared<shared>();
    tp_comm_config hosts = {n_ranks, deadline_ms, false}, devices = {n_ranks, FOR_EVER_MS, false};

    s->n_ranks = n_ranks;
    s->rows.resize(n_ranks);
    if (tp_comm_create(&hosts, &s->hosts) != ERR_OK ||
        tp_comm_create(&devices, &s->devices) != ERR_OK)
        return err_set(msg, ERR_NOMEM, "collectives: out of host memory");
    *out = new gpu_comm_group{s};
    return ERR_OK;
}

void gpu_comm_group_destroy(struct gpu_comm_group *group)
{
    delete group;
}

void gpu_comm_abort(struct gpu_comm_group *group)
{
    if (group != nullptr)
        group->s->end();
}

enum err gpu_comm_open(struct gpu_comm_group *group, uint32_t rank, struct gpu *g,
                       struct err_msg *msg, struct gpu_comm **out)
{
    if (rank >= group->s->n_ranks)
        return err_set(msg, ERR_INVALID, "collectives: rank %u of %u", rank, group->s->n_ranks);
    if (gpu_use(g) != ERR_OK || tp_barrier(group->s->hosts, rank) != ERR_OK) {
        group->s->end();
        return err_set(msg, ERR_DEVICE, "collectives: rank %u of %u: another rank failed", rank,
                       group->s->n_ranks);
    }
    *out = new gpu_comm{group->s, rank};
    return ERR_OK;
}

void gpu_comm_close(struct gpu_comm *c)
{
    delete c;
}

enum err gpu_comm_all_reduce(struct gpu_comm *c, void *data, size_t n, enum gpu_dtype dtype,
                             gpu_stream stream)
{
    auto s = c->s;
    uint32_t rank = c->rank;

    if (s->ended)
        return ERR_DEVICE;
    if (s->n_ranks == 1 || n == 0)
        return ERR_OK;
    return emu::enqueue(stream, [=] {
        if (dtype == GPU_BF16)
            sum(*s, rank, (bf16 *)data, n);
        else
            sum(*s, rank, (f16 *)data, n);
    });
}

enum err gpu_comm_all_gather(struct gpu_comm *c, void *out, const void *in, size_t bytes,
                             gpu_stream stream)
{
    auto s = c->s;
    uint32_t rank = c->rank;

    if (bytes % 4 != 0)
        return ERR_INVALID;
    if (s->ended)
        return ERR_DEVICE;
    if (bytes == 0)
        return ERR_OK;
    return emu::enqueue(stream, [=] { gather(*s, rank, out, in, bytes); });
}

enum err gpu_comm_wait(struct gpu_comm *c, gpu_event e, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t look = clock_now_ns() + LOOK_NS;
        enum err err = gpu_event_wait(e, look < deadline_ns ? look : deadline_ns);

        if (err == ERR_OK && !c->s->ended)
            return ERR_OK;
        if (err == ERR_TIMEOUT && !c->s->ended && clock_now_ns() < deadline_ns)
            continue;
        if (err == ERR_TIMEOUT && !c->s->ended)
            (void)gpu_fail("a step with collectives",
                           "not done at its deadline: a rank or a device hangs");
        c->s->end();
        return ERR_DEVICE;
    }
}

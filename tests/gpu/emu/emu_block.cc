/* tests/gpu/emu/emu_block.cc - one block of a kernel: its threads as fibers (Boost.Context), stopped at barriers
 * and warp operations, resumed in shuffled order.  See gpu_emulated.cuh for what this finds. */
#include "tests/gpu/emu/emu.hh"

#include <boost/context/detail/fcontext.hpp>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "engine/kernels/gpu_kernel.cuh"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu
{

thread_local thread_state *now;

namespace
{

namespace ctx = boost::context::detail;

enum { STACK_BYTES = 256 * 1024, PAGE = 4096, WARP = 32, POISON = 0xff };

enum class state { ready, at_barrier, in_exchange, done };

struct copy16 {
    void *dst;
    const void *src;
    bool valid;
    unsigned group;
};

struct fiber {
    thread_state self; /* first: `now` points here */
    ctx::fcontext_t at;
    state st;
    bool waited; /* for the kernel before */
    int vote;
    unsigned group; /* number of committed cp.async groups */
    std::vector<copy16> copies;
    unsigned char *stack; /* the usable part, above a guard page */
};

/* Lanes that meet: one per mask in use and warp. */
struct meeting {
    uint32_t mask = 0;
    unsigned arrived = 0;
    uint64_t generation = 0;
    uint32_t words[2][WARP * EXCHANGE_WORDS];
};

void forget_frames(const void *stack, size_t bytes);

struct block {
    std::vector<fiber> fibers;
    std::vector<std::vector<meeting *>> warps;
    std::vector<unsigned> order;
    unsigned n = 0, live = 0, at_barrier = 0;
    int vote = 0, voted = 0;
    ctx::fcontext_t scheduler;
    const std::function<void()> *fn = nullptr;
    const char *name = "";
    bool early = false; /* every thread has to wait for the kernel before */
    unsigned char *dynamic = nullptr;
    uint64_t random = 0x9e3779b97f4a7c15ull;
    fiber *running = nullptr;
    shared_array *arrays = nullptr;

    ~block()
    {
        for (auto &f : fibers) {
            forget_frames(f.stack, STACK_BYTES); /* others will be given this memory */
            munmap(f.stack - PAGE, STACK_BYTES + PAGE);
        }
        for (auto &w : warps)
            for (meeting *m : w)
                delete m;
    }
};

thread_local block here;

uint64_t next_random()
{
    here.random ^= here.random << 13;
    here.random ^= here.random >> 7;
    here.random ^= here.random << 17;
    return here.random;
}

/* AddressSanitizer is told of every change of stack; elsewhere these do nothing. */
#if defined(__SANITIZE_ADDRESS__)
thread_local const void *scheduler_stack;
thread_local size_t scheduler_stack_bytes;

void leave_for(const void *stack, size_t bytes, void **fake)
{
    __sanitizer_start_switch_fiber(fake, stack, bytes);
}
void arrive(void *fake, bool from_scheduler)
{
    __sanitizer_finish_switch_fiber(fake, from_scheduler ? &scheduler_stack : nullptr,
                                    from_scheduler ? &scheduler_stack_bytes : nullptr);
}
void leave_for_scheduler(void **fake)
{
    leave_for(scheduler_stack, scheduler_stack_bytes, fake);
}
/* The last frames of the fiber that ended on this stack never returned: their marks are still there. */
void forget_frames(const void *stack, size_t bytes)
{
    __asan_unpoison_memory_region(stack, bytes);
}
#else
void leave_for(const void *, size_t, void **)
{
}
void arrive(void *, bool)
{
}
void leave_for_scheduler(void **)
{
}
void forget_frames(const void *, size_t)
{
}
#endif

/* Back to the scheduler; returns when it resumes this fiber. */
void stop(state st)
{
    void *fake = nullptr;

    here.running->st = st;
    leave_for_scheduler(st == state::done ? nullptr : &fake);
    here.scheduler = ctx::jump_fcontext(here.scheduler, nullptr).fctx;
    arrive(fake, true);
}

void fiber_main(ctx::transfer_t from)
{
    here.scheduler = from.fctx;
    arrive(nullptr, true);
    (*here.fn)();
    if (here.early && !here.running->waited)
        fault("a thread of an early kernel ends without gpu_wait_previous", nullptr);
    here.live--;
    stop(state::done);
    abort(); /* a finished fiber is not resumed */
}

void resume(fiber *f)
{
    void *fake = nullptr;

    here.running = f;
    now = &f->self;
    leave_for(f->stack, STACK_BYTES, &fake);
    f->at = ctx::jump_fcontext(f->at, nullptr).fctx;
    arrive(fake, false);
    now = nullptr;
}

void release_barrier()
{
    if (here.at_barrier == 0 || here.at_barrier < here.live)
        return;
    here.at_barrier = 0;
    here.voted = here.vote;
    here.vote = 0;
    for (unsigned i = 0; i < here.n; i++) {
        if (here.fibers[i].st == state::at_barrier)
            here.fibers[i].st = state::ready;
    }
}

bool nobody_ready()
{
    return std::none_of(here.fibers.begin(), here.fibers.begin() + here.n,
                        [](const fiber &f) { return f.st == state::ready; });
}

void make_fibers(unsigned n)
{
    while (here.fibers.size() < n) {
        fiber f = {};
        void *p = mmap(nullptr, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE) != 0)
            fault("no memory for the stacks of a block", nullptr);
        f.stack = (unsigned char *)p + PAGE;
        here.fibers.push_back(std::move(f));
    }
    here.warps.resize(std::max<size_t>(here.warps.size(), (n + WARP - 1) / WARP));
}

void run_block(const struct gpu_dims &d, dim3u index)
{
    here.n = here.live = d.threads;
    here.at_barrier = 0;
    here.vote = 0;
    for (shared_array *a = here.arrays; a != nullptr; a = a->next)
        memset(a->bytes, POISON, a->len);
    if (d.shared > 0)
        memset(here.dynamic, POISON, d.shared);
    here.order.resize(d.threads);
    for (unsigned i = 0; i < d.threads; i++) {
        fiber &f = here.fibers[i];
        f.self = {{i, 0, 0}, index, {d.threads, 1, 1}, {d.x, d.y, d.z}};
        f.st = state::ready;
        f.waited = false;
        f.group = 0;
        f.copies.clear();
        forget_frames(f.stack, STACK_BYTES);
        f.at = ctx::make_fcontext(f.stack + STACK_BYTES, STACK_BYTES, fiber_main);
        here.order[i] = i;
    }
    for (auto &w : here.warps)
        for (meeting *m : w)
            m->arrived = 0;
    unsigned slow = 0, slow_for = 0;
    while (here.live > 0) {
        bool moved = false;
        if (slow_for-- ==
            0) { /* a warp, or none, that lags behind: others may run far ahead of it */
            slow = (unsigned)(next_random() % (d.threads / WARP + 1));
            slow_for = (unsigned)(next_random() % 32);
        }
        for (unsigned i = d.threads - 1; i > 0; i--)
            std::swap(here.order[i], here.order[next_random() % (i + 1)]);
        for (unsigned i : here.order) {
            if (here.fibers[i].st != state::ready || i / WARP == slow)
                continue;
            resume(&here.fibers[i]);
            moved = true;
        }
        release_barrier();
        if (!moved && here.live > 0 && nobody_ready())
            fault("threads wait for ever at a barrier or warp operation that not all reach",
                  nullptr);
    }
}

} // namespace

void fault(const char *what, const void *p)
{
    fprintf(stderr, "emulated GPU: %s (%p)\n  in %s\n", what, p, here.name);
    if (now != nullptr)
        fprintf(stderr, "  block %u,%u,%u thread %u\n", now->block.x, now->block.y, now->block.z,
                now->thread.x);
    abort();
}

unsigned lane()
{
    return now->thread.x % WARP;
}

void waited()
{
    here.running->waited = true;
}

void barrier()
{
    (void)barrier_or(0);
}

int barrier_or(int value)
{
    here.vote |= value != 0;
    here.at_barrier++;
    stop(state::at_barrier);
    return here.voted;
}

const uint32_t *exchange(uint32_t mask, const uint32_t *words, unsigned n)
{
    auto &all = here.warps[now->thread.x / WARP];
    unsigned l = lane(), count = (unsigned)__builtin_popcount(mask);
    meeting *m = nullptr;

    if ((mask >> l & 1) == 0)
        fault("a warp operation whose mask leaves out the thread that calls it", nullptr);
    for (meeting *each : all) {
        if (each->mask == mask)
            m = each;
    }
    if (m == nullptr) {
        all.push_back(m = new meeting);
        m->mask = mask;
    }
    uint64_t g = m->generation;
    memcpy(m->words[g & 1] + l * n, words, n * sizeof(*words));
    if (++m->arrived < count) {
        stop(state::in_exchange);
    } else {
        unsigned first = now->thread.x / WARP * WARP;
        m->arrived = 0;
        m->generation++;
        for (unsigned i = 0; i < WARP; i++) {
            if ((mask >> i & 1) && i != l)
                here.fibers[first + i].st = state::ready;
        }
    }
    return m->words[g & 1];
}

shared_array::shared_array(void *b, size_t n) : bytes(b), len(n), next(here.arrays)
{
    here.arrays = this;
    memset(b, POISON, n); /* first met in the middle of a block */
}

unsigned char *shared_dynamic()
{
    return here.dynamic;
}

void cp_async(void *dst, const void *src, bool valid)
{
    here.running->copies.push_back({dst, src, valid, here.running->group});
}

void cp_commit()
{
    here.running->group++;
}

void cp_wait(unsigned newer)
{
    auto &c = here.running->copies;
    unsigned done = here.running->group > newer ? here.running->group - newer : 0;
    auto keep =
        std::stable_partition(c.begin(), c.end(), [=](const copy16 &x) { return x.group < done; });

    for (auto i = c.begin(); i != keep; ++i) {
        if (i->valid)
            memcpy(i->dst, i->src, 16);
        else
            memset(i->dst, 0, 16);
    }
    c.erase(c.begin(), keep);
}

void run_grid(const struct gpu_dims &d, const char *name, bool early,
              const std::function<void()> &fn)
{
    std::vector<dim3u> blocks;

    for (unsigned z = 0; z < d.z; z++)
        for (unsigned y = 0; y < d.y; y++)
            for (unsigned x = 0; x < d.x; x++)
                blocks.push_back({x, y, z});
    make_fibers(d.threads);
    here.name = name;
    here.early = early;
    here.fn = &fn;
    guarded dynamic(d.shared);
    here.dynamic = dynamic.bytes;
    for (size_t i = blocks.size() - 1; i > 0; i--)
        std::swap(blocks[i], blocks[next_random() % (i + 1)]);
    for (const dim3u &b : blocks)
        run_block(d, b);
    here.dynamic = nullptr;
}

} // namespace emu

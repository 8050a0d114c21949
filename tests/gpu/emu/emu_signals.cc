/* tests/gpu/emu/emu_signals.cc - what differs in a daemon that runs on emulated devices: products are not timed at start,
 * which would take a minute, and a test may break its devices: SIGUSR1, the next piece of work never ends; SIGUSR2, it
 * fails. */
#include <signal.h>

#include "tests/gpu/emu/gpu_emu.h"

extern "C" void cuda_engine_time_products(bool on); /* engine/cuda/cuda_engine.h, which is C */

static void on_signal(int number)
{
    if (number == SIGUSR1)
        gpu_emu_hang_after(1);
    else
        gpu_emu_fail_after(1);
}

__attribute__((constructor)) static void install()
{
    cuda_engine_time_products(false);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
}

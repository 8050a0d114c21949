# The operations of engine/kernels, one NAME.cu and one NAME_ref.c each.
set(KERNEL_SOURCES
)

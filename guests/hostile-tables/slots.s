# Two tables of functions, which C cannot declare. Two, because a limit on each table would let the
# second begin where the first had to stop.

    .tabletype first, funcref
    .tabletype second, funcref

    .globl first
first:

    .globl second
second:

# Adds empty slots: how many there were before, or -1 where that was denied.
    .globl grow_first
    .type  grow_first, @function
grow_first:
    .functype grow_first (i32) -> (i32)
    ref.null_func
    local.get 0
    table.grow first
    end_function

    .globl grow_second
    .type  grow_second, @function
grow_second:
    .functype grow_second (i32) -> (i32)
    ref.null_func
    local.get 0
    table.grow second
    end_function

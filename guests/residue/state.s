# The state of an instance that C cannot name: a global, a table of its own, and the slots of the
# table that calls through function pointers go by.

    .globaltype counter, i32
    .tabletype  slots, funcref
    .tabletype  __indirect_function_table, funcref

    .globl counter
counter:

    .globl slots
slots:

    .globl counter_get
    .type  counter_get, @function
counter_get:
    .functype counter_get () -> (i32)
    global.get counter
    end_function

    .globl counter_set
    .type  counter_set, @function
counter_set:
    .functype counter_set (i32) -> ()
    local.get 0
    global.set counter
    end_function

    .globl slots_size
    .type  slots_size, @function
slots_size:
    .functype slots_size () -> (i32)
    table.size slots
    end_function

# Adds slots, all holding the function that the function pointer (first argument) points to.
    .globl slots_add
    .type  slots_add, @function
slots_add:
    .functype slots_add (i32, i32) -> (i32)
    local.get 0
    table.get __indirect_function_table
    local.get 1
    table.grow slots
    end_function

# Makes the first function pointer call what the second one points to.
    .globl redirect
    .type  redirect, @function
redirect:
    .functype redirect (i32, i32) -> ()
    local.get 0
    local.get 1
    table.get __indirect_function_table
    table.set __indirect_function_table
    end_function

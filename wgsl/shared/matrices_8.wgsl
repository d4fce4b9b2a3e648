// Cooperative matrices of 8x8, which wgpu has on Metal. The MSL that naga makes loads a matrix from memory
// of its scalar type only, so what passes through workgroup memory lies there value by value.
const SIDE = 8u; // rows and columns of a matrix
const UNIT = 1u; // values of an element of workgroup memory; indices count elements

alias Halves = f16;
alias Floats = f32;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

// Four values, from element `at` on.
fn put_strip(at: u32, x: vec4<f16>) {
    strips[at] = x.x;
    strips[at + 1u] = x.y;
    strips[at + 2u] = x.z;
    strips[at + 3u] = x.w;
}

fn put_weights(at: u32, x: vec4<f16>) {
    weights[at] = x.x;
    weights[at + 1u] = x.y;
    weights[at + 2u] = x.z;
    weights[at + 3u] = x.w;
}

fn get_sums(at: u32) -> vec4<f32> {
    return vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}

fn put_sums(at: u32, x: vec4<f32>) {
    sums[at] = x.x;
    sums[at + 1u] = x.y;
    sums[at + 2u] = x.z;
    sums[at + 3u] = x.w;
}

// Value `column` of those from element `at` on.
fn get_sum(at: u32, column: u32) -> f32 {
    return sums[at + column];
}

fn put_weight(at: u32, column: u32, x: f16) {
    weights[at + column] = x;
}

// Cooperative matrices of 16x16, which wgpu has on Vulkan. What passes through workgroup memory on its
// way into one or out of one lies there in vectors of four: drivers then know how it is aligned.
const SIDE = 16u; // rows and columns of a matrix
const UNIT = 4u;  // values of an element of workgroup memory; indices count elements

alias Halves = vec4<f16>;
alias Floats = vec4<f32>;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// Four values, from element `at` on.
fn put_strip(at: u32, x: vec4<f16>) {
    strips[at] = x;
}

fn put_weights(at: u32, x: vec4<f16>) {
    weights[at] = x;
}

fn get_sums(at: u32) -> vec4<f32> {
    return sums[at];
}

fn put_sums(at: u32, x: vec4<f32>) {
    sums[at] = x;
}

// Value `column` of those from element `at` on.
fn get_sum(at: u32, column: u32) -> f32 {
    return sums[at + column / 4u][column % 4u];
}

fn put_weight(at: u32, column: u32, x: f16) {
    weights[at + column / 4u][column % 4u] = x;
}

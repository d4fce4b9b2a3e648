// Accumulators of row groups on their way to the merge, in memory of their own.

var<workgroup> merge_acc: array<vec4<f32>, MERGE_VECTORS>;

fn acc_put(i: u32, x: vec4<f32>) {
    merge_acc[i] = x;
}
fn acc_get(i: u32) -> vec4<f32> {
    return merge_acc[i];
}

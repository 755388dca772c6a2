//! The bytes of responses, the EDID and the device's configuration space.

use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION, Capset};
use paragpu_protocol::virtio_gpu::{
    CapsetInfo, Config, DisplayInfo, FLAG_FENCE, FLAG_INFO_RING_IDX, Header, Response,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Length of the configuration space: front ends may read any part of it, and cloud-hypervisor panics on a
/// short answer.
pub const CONFIG_SPACE_BYTES: usize = 4096;

const EDID_BYTES: usize = 128;
/// Length of the field that carries the EDID (`virtio_gpu_resp_edid`).
const EDID_FIELD_BYTES: usize = 1024;

/// A response without data.
pub(super) fn plain(request: &Header, response: Response) -> Vec<u8> {
    with(request, response, &[])
}

/// A response with what follows the header.
pub(super) fn with(request: &Header, response: Response, body: &[u8]) -> Vec<u8> {
    let mut header = Header { kind: (response as u32).into(), ..Header::default() };
    if request.flags.get() & FLAG_FENCE != 0 {
        header.flags = (request.flags.get() & (FLAG_FENCE | FLAG_INFO_RING_IDX)).into();
        header.fence_id = request.fence_id;
        header.ctx_id = request.ctx_id;
        header.ring_idx = request.ring_idx;
    }
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// No output has a monitor: paragpu is no display.
pub(super) fn display_info(request: &Header) -> Vec<u8> {
    with(request, Response::OkDisplayInfo, DisplayInfo::default().as_bytes())
}

pub(super) fn edid(request: &Header) -> Vec<u8> {
    let mut body = vec![0; 8 + EDID_FIELD_BYTES];
    body[..4].copy_from_slice(U32::from(EDID_BYTES as u32).as_bytes());
    body[8..8 + EDID_BYTES].copy_from_slice(&edid_block());
    with(request, Response::OkEdid, &body)
}

pub(super) fn capset_info(request: &Header) -> Vec<u8> {
    let info = CapsetInfo {
        capset_id: CAPSET_ID.into(),
        capset_max_version: CAPSET_VERSION.into(),
        capset_max_size: (size_of::<Capset>() as u32).into(),
        padding: U32::ZERO,
    };
    with(request, Response::OkCapsetInfo, info.as_bytes())
}

/// What the host says of itself; `most_shared` bytes may be shared by regions, if that is limited.
pub(super) fn capset(request: &Header, most_shared: Option<u64>) -> Vec<u8> {
    let capset = Capset { max_shared_bytes: most_shared.unwrap_or_default().into(), ..Capset::current() };
    with(request, Response::OkCapset, capset.as_bytes())
}

/// The whole configuration space.
pub fn config_space() -> [u8; CONFIG_SPACE_BYTES] {
    let mut space = [0; CONFIG_SPACE_BYTES];
    // Drivers before Linux 6.4 fail to probe with no scanout, so there is one, without a monitor.
    let config = Config { num_scanouts: 1.into(), num_capsets: 1.into(), ..Config::default() };
    space[..size_of::<Config>()].copy_from_slice(config.as_bytes());
    space
}

/// An EDID 1.4 block of a monitor that nobody will see: the driver asks, and complains about nonsense.
fn edid_block() -> [u8; EDID_BYTES] {
    let mut edid = [0; EDID_BYTES];
    edid[..8].copy_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    // Manufacturer "PGU", five bits a letter; product 1; made in 2026.
    let letters = (16_u16 << 10) | (7 << 5) | 21;
    edid[8..10].copy_from_slice(&letters.to_be_bytes());
    edid[10] = 1;
    edid[17] = 36;
    // Version 1.4; digital input, 8 bits a colour; gamma 2.2; sRGB.
    edid[18..25].copy_from_slice(&[1, 4, 0xa5, 0, 0, 120, 0x06]);
    edid[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // No established timings; the eight standard timings are unused.
    edid[38..54].fill(1);
    // 1024x768 at 60 Hz, as VESA defines it: the mandatory preferred timing.
    edid[54..72].copy_from_slice(&[
        0x64, 0x19, 0x00, 0x40, 0x41, 0x00, 0x26, 0x30, 0x18, 0x88, 0x36, 0, 0, 0, 0, 0, 0, 0x18,
    ]);
    // Monitor name, then two dummy descriptors.
    edid[72..77].copy_from_slice(&[0, 0, 0, 0xfc, 0]);
    edid[77..90].copy_from_slice(b"paragpu\n     ");
    edid[93] = 0x10;
    edid[111] = 0x10;
    let sum = edid.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    edid[EDID_BYTES - 1] = sum.wrapping_neg();
    edid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edid_has_a_header_and_its_bytes_sum_to_zero() {
        let edid = edid_block();
        assert_eq!(edid[..8], [0, 255, 255, 255, 255, 255, 255, 0]);
        assert_eq!(edid.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn a_fenced_request_gets_its_fence_back_and_another_gets_none() {
        let mut request = Header { fence_id: 7.into(), ctx_id: 3.into(), ..Header::default() };
        assert_eq!(plain(&request, Response::OkNodata)[4..], [0; 20]);
        request.flags = FLAG_FENCE.into();
        let response = plain(&request, Response::OkNodata);
        assert_eq!((response[4], response[8], response[16]), (1, 7, 3));
    }
}

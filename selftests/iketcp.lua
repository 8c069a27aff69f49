-- SPDX-License-Identifier: GPL-2.0
--
-- RFC 9329 for tshark, whose own "TCP encapsulation" is Cisco's older protocol
-- of that name. This only finds the frames; IKE and ESP are left to tshark's
-- dissectors, which decrypt ESP when they are given the keys.
--
--	tshark -X lua_script:iketcp.lua -r FILE -Y iketcp
--
-- A capture that begins amid the stream has no prefix to look for: frames are
-- expected from its first segment on.

local PREFIX = "IKETCP"
local PORT = 4500

local iketcp = Proto("iketcp", "TCP Encapsulation of IKE and IPsec Packets")
local f_prefix = ProtoField.string("iketcp.prefix", "Stream prefix")
local f_length = ProtoField.uint16("iketcp.length", "Length")
local f_type = ProtoField.string("iketcp.type", "Type")
local f_broken = ProtoField.bool("iketcp.broken", "Broken stream")
iketcp.fields = { f_prefix, f_length, f_type, f_broken }

local esp = Dissector.get("esp")
local isakmp = Dissector.get("isakmp")

local function frame_type(payload)
	if payload:len() == 1 and payload(0, 1):uint() == 0xff then
		return "keepalive"
	elseif payload:len() <= 4 then
		return "short"
	elseif payload(0, 4):uint() == 0 then
		return "ike"
	end
	return "esp"
end

local function dissect_frame(tvb, pinfo, root)
	local length = tvb(0, 2):uint()
	local tree = root:add(iketcp, tvb(0, length))
	local kind

	tree:add(f_length, tvb(0, 2))
	if length == 2 then
		tree:add(f_type, "empty")
		return length
	end

	kind = frame_type(tvb(2))
	tree:add(f_type, kind)
	if kind == "esp" then
		esp:call(tvb(2):tvb(), pinfo, root)
	elseif kind == "ike" then
		isakmp:call(tvb(6):tvb(), pinfo, root)
	end
	return length
end

local function frame_length(tvb, _, offset)
	-- Less than the length field itself is not a frame; take the field
	-- alone, so that the dissection goes on and shows it
	return math.max(tvb(offset, 2):uint(), 2)
end

local function dissect_checked(tvb, pinfo, root)
	if tvb(0, 2):uint() < 2 then
		root:add(iketcp, tvb()):add(f_broken, true)
		return 2
	end
	return dissect_frame(tvb, pinfo, root)
end

function iketcp.dissector(tvb, pinfo, root)
	if tvb:len() >= #PREFIX and tvb(0, #PREFIX):string() == PREFIX then
		root:add(iketcp, tvb(0, #PREFIX)):add(f_prefix, tvb(0, #PREFIX))
		if tvb:len() == #PREFIX then
			return
		end
		tvb = tvb(#PREFIX):tvb()
	end
	dissect_tcp_pdus(tvb, root, 2, frame_length, dissect_checked)
end

DissectorTable.get("tcp.port"):add(PORT, iketcp)
